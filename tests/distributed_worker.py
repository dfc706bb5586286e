"""What test_distributed.py lets two processes do under torchrun, and one process alone.

``measure FOLDER WEIGHTS RUN`` takes every measurement in one start and writes them to
``FOLDER/rank-R.pt``; ``die-at-step RANK STEP WORDS…`` and ``die-at-file NAME CALL MOMENT WORDS…``
train as the command does, until a process kills itself; test_resume.py lets one do so.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from manifold.ranks import ALONE, start
from manifold.settings import resolve
from manifold.training import train
from manifold.training.cohort import Cohort
from manifold.training.data import load_splits
from manifold.training.evaluation import evaluate_split
from manifold.training.runs import CPU, student_setting

PAIR, RECIPE = "deit-cait", "A"
METHODS = resolve({"scale": "smoke"}).methods
BATCH = 32
DATA = {"validation": 1437 - 165}  # leaves 5 batches of 32 to train on

# An epsilon that keeps Adam from blowing up the rounding of gradients that are zero (attention's
# key bias), and no clipping, which would hide a gradient that is wrong by a factor.
SAME_EVERYWHERE = {
    "drop_path": 0.0,
    "mixing": {"probability": 1.0},
    "optimizer": {"clip_norm": None, "epsilon": 1e-4},
}
FOUR_SHARDS = {"shards": 4, "relational_batch": "shard"}
LAYOUTS = {
    "batch": ({"shards": 2, "relational_batch": "batch"}, {}),
    "shard": ({"shards": 2, "relational_batch": "shard"}, {}),
    "four shards": (FOUR_SHARDS, {}),
    "four shards, two a pass": (FOUR_SHARDS, {"shards_per_pass": 2}),
    "four shards, one a pass": (FOUR_SHARDS, {"shards_per_pass": 1}),
    "bfloat16": ({"shards": 2, "relational_batch": "batch", "precision": "bfloat16"}, {}),
}
ON_TWO_RANKS = [name for name in LAYOUTS if name != "four shards, two a pass"]
TESTED_IMAGES = [1, 7, 11]


def overrides(results, weights, recipe=None, machine=None):
    return {
        "scale": "smoke",
        "results": str(results),
        "name": "run",
        "data": DATA,
        "pairs": {PAIR: {"teacher": {"weights": str(weights)}}},
        "recipes": {RECIPE: {"batch_size": 32, **(recipe or {})}},
        "machine": machine or {},
    }


def training(results, weights, recipe, machine, processes=None, methods=METHODS):
    """A training of one epoch whose result does not depend on how the images are laid out."""
    recipe = {**SAME_EVERYWHERE, **recipe}
    machine = {"checkpoint_seconds": 3600, **machine}
    experiment = resolve(overrides(results, weights, recipe, machine))
    setting, cells = student_setting(experiment, PAIR, RECIPE, 1, methods, 0, processes)
    return train.Training(setting, cells, load_splits(experiment.data))


def methods_of(layout):
    return ["sp", "manifold"] if layout == "bfloat16" else METHODS


def learn(made):
    """Train, and return what this process saw and computed in the first step and by the end."""
    members, step_of_cohort = made.cohort.members, made.cohort.step
    first = {"gradients": {}, "terms": {}}

    def keep_gradients(member):
        named = {name: p for name, p in member.distiller.named_parameters() if p.requires_grad}

        def hook(*_):
            if member.name not in first["gradients"]:
                first["gradients"][member.name] = {n: p.grad.clone() for n, p in named.items()}

        member.optimizer.register_step_pre_hook(hook)

    def step(images, targets, number, *shards_and_passes):
        if number == 0:
            first.update(images=images.clone(), targets=targets.clone())
        step_of_cohort(images, targets, number, *shards_and_passes)
        if number == 0:
            first["terms"] = {member.name: dict(member.totals) for member in members}

    for member in members:
        keep_gradients(member)
    made.cohort.step = step
    made.run()
    return {
        **first,
        "weights": {m.name: m.distiller.get_trainable_module().state_dict() for m in members},
        "auxiliary": {m.name: m.distiller.auxiliary.state_dict() for m in members},
        "ema": {
            m.name: m.distiller.get_trainable_module(ema=True).module.state_dict() for m in members
        },
        "rows": made.rows,
    }


def describe_modules(made):
    """Which parameters DistributedDataParallel averages."""
    found = {}
    for member in made.cohort.members:
        inside = {id(p) for p in member.network.parameters()}
        found[member.name] = {
            "network": type(member.network).__name__,
            "teacher": sum(id(p) in inside for p in made.cohort.teacher.parameters()),
            "teacher's": type(made.cohort.teacher).__name__,
            "outside": [
                name
                for part in ("trainable_module", "auxiliary")
                for name, p in getattr(member.distiller, part).named_parameters(prefix=part)
                if id(p) not in inside
            ],
            "averaged": sum(p.requires_grad for p in member.network.parameters()),
        }
    return found


def evaluate_some(count, ranks=ALONE):
    """The accuracy of a random network on the first test images, and the images it saw here."""
    experiment = resolve({"scale": "smoke", "machine": {"evaluation_batch_size": 2}})
    test = load_splits(experiment.data).test
    images = dataclasses.replace(test, indices=test.indices[:count])
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    seen = [torch.empty(0, 1, 8, 8)]
    model.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].clone()))
    (top1,) = evaluate_split(experiment, [model], images, "some", device=CPU, ranks=ranks)
    return {"top1": top1, "seen": torch.cat(seen)}


# ---- what crosses between the ranks ------------------------------------------------------------


class Probe(nn.Module):
    """A linear map whose outputs for all images together enter a loss."""

    def __init__(self, loss, ranks):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight, self.head = (
            nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
            for shape in ((4, 6), (6, 2))
        )
        self.loss = loss
        self.ranks = ranks

    def forward(self, images):
        unused = 0 * self.head.sum()  # DistributedDataParallel waits for every gradient
        return LOSSES[self.loss](self, images @ self.weight) + unused


def relation(probe, features):
    features = probe.ranks.gather(features)
    return (features @ features.T).square().mean()


def transposed(probe, features):
    """Tokens as a network gives them: dense, and not contiguous."""
    tokens = features.reshape(len(features), 3, 2).mT
    positions = torch.arange(tokens[0].numel()).reshape(tokens[0].shape)
    return (probe.ranks.gather(tokens).logsumexp(dim=0) * positions).sum()


def projected(probe, features):
    """A trained module that sees the gathered features, as a projector does."""
    return (probe.ranks.gather(features) @ probe.head).tanh().sum(dim=0).square().mean()


def gram(probe, features):
    return probe.ranks.sum(features.T @ features).square().sum()


def mixed(probe, features):
    """A mean over the own images beside a function of the sum over all."""
    return features.square().mean() + probe.ranks.sum(features.sum(dim=0)).cos().sum()


LOSSES = {
    function.__name__: function for function in (relation, transposed, projected, gram, mixed)
}


def differentiate(loss, ranks=ALONE):
    """The loss of six images, this rank's share of them, and its gradients."""
    images = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = Probe(loss, ranks)
    network = DistributedDataParallel(probe) if ranks.count > 1 else probe
    value = network(images.chunk(ranks.count)[ranks.rank])
    value.backward()
    return {"value": value.detach(), "weight": probe.weight.grad, "head": probe.head.grad}


# ---- the processes -----------------------------------------------------------------------------


def measure(folder, weights, run):
    processes = start("cpu")
    ranks, _ = processes
    found = {}
    for layout in ON_TWO_RANKS:
        results = Path(folder) / layout
        made = training(results, weights, *LAYOUTS[layout], processes, methods_of(layout))
        found[layout] = {"modules": describe_modules(made), **learn(made)}
    found["evaluations"] = {count: evaluate_some(count, ranks) for count in TESTED_IMAGES}
    found["crossings"] = {loss: differentiate(loss, ranks) for loss in LOSSES}
    chosen, epochs, methods = json.loads(run)
    train.train(*student_setting(resolve(chosen), PAIR, RECIPE, epochs, methods, 0, processes))
    torch.save(found, Path(folder) / f"rank-{ranks.rank}.pt")
    dist.destroy_process_group()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(rank, step, *words):
    """Train, and kill one process before a step, when every process has saved the step before."""
    step_of_cohort = Cohort.step

    def step_or_die(self, images, targets, number, *shards_and_passes):
        if number == int(step):
            dist.barrier()
            if os.environ["RANK"] == rank:
                die()
        step_of_cohort(self, images, targets, number, *shards_and_passes)

    Cohort.step = step_or_die
    train_as_commanded(words)


def die_at_file(name, call, moment, *words):
    """Train, and kill the process around its ``call``-th renaming onto a file of that name."""
    replace = os.replace
    calls = 0

    def replace_and_die(source, target):
        nonlocal calls
        calls += Path(target).name.endswith(name)
        fatal = calls == int(call) and Path(target).name.endswith(name)
        if fatal and moment == "while writing":
            os.truncate(source, os.path.getsize(source) // 2)
            die()
        replace(source, target)
        if fatal:
            die()

    os.replace = replace_and_die
    train_as_commanded(words)


def train_as_commanded(words):
    sys.argv = ["manifold.training.train", *words]
    train.main()


if __name__ == "__main__":
    torch.set_num_threads(1)
    MODES = {"measure": measure, "die-at-step": die_at_step, "die-at-file": die_at_file}
    MODES[sys.argv[1]](*sys.argv[2:])
