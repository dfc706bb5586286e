"""One process of a rehearsal's training, which may be killed, and what it takes.

``python -m benchmarks.rehearsal.training --experiment experiment.yaml --pair PAIR --recipe A \\
    --methods none soft_kd --killed-after 1``, under torchrun where there are several processes.
"""

import dataclasses
import json
import os
import resource
import signal
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from manifold import ranks
from manifold.distiller import Distiller
from manifold.files import write_text
from manifold.settings import Experiment
from manifold.training import command
from manifold.training.cohort import Member, autocast
from manifold.training.data import Images, Splits, load_splits
from manifold.training.description import describe_environment
from manifold.training.runs import Setting, student_setting
from manifold.training.train import Training

GIB = 2**30
ACTIVATION_IMAGES = 2


class KilledTraining(Training):
    """A training whose last process kills itself after the checkpoint of a step."""

    killed_after: int | None = None

    def save(self) -> None:
        super().save()
        if self.step != self.killed_after:
            return
        if self.setting.ranks.count > 1:
            dist.barrier()  # the first rank has written the checkpoint
        if self.setting.ranks.rank == self.setting.ranks.count - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_save_due(self) -> bool:
        return self.step == self.killed_after


def train_rehearsal(
    experiment: Experiment, pair: str, recipe: str, methods: list[str], killed_after: int | None
) -> None:
    """One process's part; the first one writes what it took beside the cells."""
    processes = ranks.start(experiment.machine.device)
    seed = experiment.seeds[0]
    setting, cells = student_setting(experiment, pair, recipe, 1, methods, seed, processes)
    splits = trimmed(load_splits(experiment.data), experiment)
    training = KilledTraining(setting, cells, splits)
    training.killed_after = killed_after
    activations = {
        member.name: activation_bytes(member, setting.image_shape, len(splits.classes))
        for member in training.cohort.members
    }
    training.resume()
    resumed_at = training.step
    training.run()
    training.finish()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if setting.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(setting.device)
    total_peak = _sum_over_ranks(peak, setting)
    if setting.ranks.is_first:
        teacher = training.cohort.teacher.model.parameters() if training.cohort.teacher else ()
        taken = {
            "resumed_at": resumed_at,
            "steps": training.step,
            "peak_memory_gib": total_peak / GIB,
            "activation_bytes": activations,
            "state_bytes": {
                member.name: state_bytes(member.distiller) for member in training.cohort.members
            },
            "teacher_bytes": sum(p.numel() * p.element_size() for p in teacher),
            "device": describe_environment(setting.device)["device"],
            "processes": setting.ranks.count,
        }
        write_text(taken_path(experiment), json.dumps(taken))
    if dist.is_initialized():
        dist.destroy_process_group()


def trimmed(splits: Splits, experiment: Experiment) -> Splits:
    """As many images as the rehearsal's steps and evaluation take, of all the classes' folders."""

    def first(images: Images, count: int) -> Images:
        return dataclasses.replace(images, indices=images.indices[:count])

    small = experiment.rehearsal
    return Splits(
        train=first(splits.train, small.steps * small.batch_size),
        validation=splits.validation,
        test=first(splits.test, small.evaluation_images),
        classes=splits.classes,
    )


def activation_bytes(member: Member, image_shape: tuple[int, int, int], classes: int) -> float:
    """Bytes an image that one member's forward pass keeps for its backward pass.

    Counted from the tensors that autograd saves, each storage once, without the parameters; the
    teacher's outputs are in it where a loss keeps them.
    """
    device = member.distiller.device
    images = torch.zeros(ACTIVATION_IMAGES, *image_shape, device=device)
    targets = torch.full((ACTIVATION_IMAGES, classes), 1 / classes, device=device)
    parameters = {p.untyped_storage().data_ptr() for p in member.distiller.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    member.distiller.train()
    keep = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with keep, autocast(device, member.precision):
        losses = member.distiller(images, targets)
    del losses
    return sum(saved.values()) / ACTIVATION_IMAGES


def state_bytes(distiller: Distiller) -> int:
    """Bytes that a member keeps through a step: weights, gradients, Adam's moments and the EMA."""
    return sum(
        parameter.numel() * parameter.element_size() * (4 if parameter.requires_grad else 1)
        for parameter in distiller.parameters()  # the EMA's, which have no gradient, are among them
    )


def _sum_over_ranks(value: float, setting: Setting) -> float:
    total = torch.tensor(float(value), dtype=torch.float64, device=setting.device)
    if setting.ranks.count > 1:
        dist.all_reduce(total)
    return total.item()


def taken_path(experiment: Experiment) -> Path:
    """What the first process writes at a training's end."""
    return experiment.directory / "taken.json"


def main() -> None:
    parser = command.parser("benchmarks.rehearsal.training", __doc__)
    parser.add_argument("--pair", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--killed-after", type=int, help="a step: die after its checkpoint")
    options = parser.parse_args()
    experiment = command.experiment(options)
    train_rehearsal(experiment, options.pair, options.recipe, options.methods, options.killed_after)


if __name__ == "__main__":
    command.run(main)
