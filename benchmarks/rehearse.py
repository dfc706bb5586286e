"""Rehearse a scale without its data: every pair and recipe for a few steps at full shapes.

``python -m benchmarks.rehearse --config scale=imagenet --pair PAIR --recipe A`` makes a small
ImageFolder of real-sized JPEGs and a teacher with random weights, trains all the pair's methods
under torchrun, kills a process after a checkpoint, resumes, evaluates, and writes
``rehearsal/PAIR-RECIPE.json``. ``--collect`` writes ``rehearsal.{md,csv}`` from all of them.

What it shows is that the code paths run at the scale's shapes, what the networks weigh, and how
fast this machine is. The weights are random: no accuracy means anything.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
import torch.distributed as dist
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from manifold import command, config, ranks
from manifold.cohort import Member, autocast
from manifold.config import Experiment, Model
from manifold.data import Images, Splits, load_splits
from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.files import write_text
from manifold.launch import command_line
from manifold.models import count_parameters, create_model, save_weights
from manifold.records import describe_environment, read_run
from manifold.runs import Setting, student_model, student_setting
from manifold.seeds import derive
from manifold.train import Training

JPEG_QUALITY = 90
FLOPS_TOLERANCE = 0.02
MISSING = "—"
GIB = 2**30
ACTIVATION_IMAGES = 2
TAKEN_BY_THE_FIRST = ("resumed_at", "steps", "device", "processes", "teacher_bytes")


def rehearsed(experiment: Experiment, pair: str, recipe: str, folder: Path) -> dict:
    """The overrides that turn a scale into its rehearsal: data, batch, teacher and machine."""
    small = experiment.rehearsal
    has_gpus = experiment.machine.device.startswith("cuda") and torch.cuda.is_available()
    is_enough = not has_gpus or torch.cuda.device_count() >= small.processes
    processes = small.processes if is_enough else 1
    return {
        "data": {"dataset": "folder", "folder": str(folder / "images"), "validation": 0},
        "pairs": {pair: {"teacher": {"weights": str(folder / f"teacher-{pair}.safetensors")}}},
        "recipes": {recipe: {"batch_size": small.batch_size, "shards": small.shards}},
        "machine": {
            "device": experiment.machine.device if has_gpus else "cpu",
            "nodes": 1,
            "processes": processes,
            "threads": max(1, len(os.sched_getaffinity(0)) // processes),
            "workers": small.workers,
        },
        "cohort": {"size": small.cohort_size},
        "results": str(folder / "results"),
        "name": "rehearsal",
    }


# ---- what it needs ---------------------------------------------------------------------------


def crops(size: list[int], generator: np.random.Generator) -> Iterator[Image.Image]:
    """Crops of scikit-learn's two photographs by turns, resized to (width, height), without end."""
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    for photograph in itertools.cycle(photographs):
        share = generator.uniform(0.4, 0.9)
        side = int(photograph.width * share), int(photograph.height * share)
        left, top = (
            int(generator.uniform(0, whole - part))
            for whole, part in zip(photograph.size, side, strict=True)
        )
        crop = photograph.crop((left, top, left + side[0], top + side[1]))
        yield crop.resize(tuple(size))


def make_images(experiment: Experiment, folder: Path) -> None:
    """Write train/CLASS/*.jpg and val/CLASS/*.jpg: crops of scikit-learn's two photographs.

    One image a class and split, and as many of the first classes as the steps need.
    """
    small = experiment.rehearsal
    generator = np.random.default_rng(derive(experiment.seeds[0], "rehearsal"))
    counts = {
        "train": max(small.classes, small.steps * small.batch_size),
        "val": max(small.classes, small.evaluation_images),
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, count in counts.items():
        images = crops(small.jpeg_size, generator)
        for number in tqdm(range(count), desc=f"{split} images", mininterval=5):
            path = partial / split / f"{number % small.classes:04d}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            next(images).save(path, quality=JPEG_QUALITY)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def make_teacher(experiment: Experiment, pair: str, path: Path) -> None:
    data = experiment.data
    shape = (data.channels, data.image_size, data.image_size)
    torch.manual_seed(derive(experiment.seeds[0], "rehearsal", pair))
    teacher = experiment.pairs[pair].teacher.model
    save_weights(create_model(teacher, shape, experiment.rehearsal.classes), path)


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


# ---- the training that is killed ---------------------------------------------------------------


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
        write_text(taken_path(experiment, pair, recipe), json.dumps(taken))
    if dist.is_initialized():
        dist.destroy_process_group()


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


def taken_path(experiment: Experiment, pair: str, recipe: str) -> Path:
    return experiment.directory / f"taken-{pair}-{recipe}.json"


# ---- one pair and recipe -----------------------------------------------------------------------


def rehearse(words: list[str], experiment: Experiment, pair: str, recipe: str) -> dict:
    """Run, kill, resume and evaluate; return what it took, and what the networks weigh.

    Raises:
        UserError: the killed run left no checkpoint, or the second did not go on from it.
    """
    folder = experiment.directory / "rehearsal"
    if not (folder / "images").is_dir():
        make_images(experiment, folder / "images")
    make_teacher(experiment, pair, folder / f"teacher-{pair}.safetensors")
    overrides = config.merge(config.parse_words(words), rehearsed(experiment, pair, recipe, folder))
    small = config.resolve(overrides)
    shutil.rmtree(small.directory / "cells" / pair / recipe, ignore_errors=True)
    shutil.rmtree(small.directory / "state" / pair / recipe, ignore_errors=True)
    module = [
        *("-m", "benchmarks.rehearse", "--pair", pair, "--recipe", recipe),
        *("--config", *config.to_words(overrides)),
    ]
    first, *others = small.cohorts(pair)
    _kill(small, [*module, "--train", *first], pair, recipe)
    taken = [
        _finish(small, [*module, "--train", *names], pair, recipe) for names in (first, *others)
    ]
    killed_after = small.rehearsal.killed_after
    if taken[0]["resumed_at"] != killed_after:
        raise UserError(
            f"{pair}, recipe {recipe}: resumed at step {taken[0]['resumed_at']}, not {killed_after}"
        )
    seed = small.seeds[0]
    methods = {
        method: read_run(small.cell_directory(pair, recipe, 1, method, seed) / "run.json")
        for method in small.methods_of(pair)
    }
    shutil.rmtree(small.directory / "cells" / pair / recipe)  # random weights, gigabytes of them
    return {
        "pair": pair,
        "recipe": recipe,
        **{key: taken[0][key] for key in TAKEN_BY_THE_FIRST},
        "peak_memory_gib": max(each["peak_memory_gib"] for each in taken),
        **{
            key: {name: size for each in taken for name, size in each[key].items()}
            for key in ("activation_bytes", "state_bytes")
        },
        "methods": {
            name: {
                "images_per_second": run["images_per_second"],
                "top1_of_random_weights": run["result"]["top1"],
                "auxiliary_parameters": run["resolved"]["auxiliary_parameters"],
            }
            for name, run in methods.items()
        },
        "token_layouts": methods[small.table1.baseline]["resolved"]["token_layouts"],
        "duplicate_share": methods[small.table1.baseline]["duplicate_share"],
    }


def _kill(experiment: Experiment, module: list[str], pair: str, recipe: str) -> None:
    """Start a training that kills itself, and make sure that it did, after its checkpoint."""
    after = experiment.rehearsal.killed_after
    killed = _start(experiment, [*module, "--killed-after", str(after)])
    if killed.returncode == 0:
        raise UserError(f"{pair}, recipe {recipe}: the process that was to be killed lived")
    if not list((experiment.directory / "state" / pair / recipe).rglob("seed-*.pt")):
        raise UserError(f"{pair}, recipe {recipe}: no checkpoint at step {after}:\n{killed.stderr}")


def _finish(experiment: Experiment, module: list[str], pair: str, recipe: str) -> dict:
    """Run a cohort to its end and return what it took."""
    finished = _start(experiment, module)
    if finished.returncode:
        raise UserError(f"{pair}, recipe {recipe} failed:\n{finished.stderr}")
    return json.loads(taken_path(experiment, pair, recipe).read_text())


def _start(experiment: Experiment, module: list[str]) -> subprocess.CompletedProcess:
    words = command_line(1, experiment.machine.processes, module, dict(os.environ))
    return subprocess.run(words, stderr=subprocess.PIPE, text=True)


# ---- the table ---------------------------------------------------------------------------------


@contextlib.contextmanager
def countable_attention() -> Iterator[None]:
    """Let networks that are made within attend by plain products, which the FLOP counter knows."""
    fused = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)
    try:
        yield
    finally:
        timm.layers.set_fused_attn(bool(fused))


def weigh(model: Model, experiment: Experiment) -> dict:
    """Parameters and multiply-accumulates of one image's forward pass."""
    data = experiment.data
    shape = (data.channels, data.image_size, data.image_size)
    with countable_attention():
        network = create_model(model, shape, experiment.rehearsal.classes)
    network.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    return {
        "parameters": count_parameters(network),
        "gmacs": counter.get_total_flops() / 2e9,
    }


def networks(experiment: Experiment) -> pd.DataFrame:
    """Every network of the pairs, weighed, next to what timm publishes of it."""
    published = pd.read_csv(experiment.networks).set_index("network")
    rows = {}
    for pair in experiment.pairs.values():
        models = {"student": pair.student, "distilled student": pair.distilled_student}
        for role, model in {**models, "teacher": pair.teacher.model}.items():
            if model is None or model.name in rows:
                continue
            name = model.name.partition(".")[0]
            own = not model.arguments and name in published.index
            known = published.loc[name].to_dict() if own else {}
            rows[model.name] = {"network": model.name, "role": role, **weigh(model, experiment)} | {
                f"published_{key}": known.get(key, float("nan")) for key in published.columns[:-1]
            }
    return pd.DataFrame(rows.values())


def check_published(weighed: pd.DataFrame) -> None:
    """Hold the networks to the published table.

    Raises:
        UserError: parameters differ in the published digits, or FLOPs by more than 2 %.
    """
    known = weighed[weighed["published_gmacs"].notna()]
    for _, row in known.iterrows():
        millions = round(row["parameters"] / 1e6, 2)
        if millions != row["published_parameters_millions"]:
            raise UserError(
                f"{row['network']} has {millions} M parameters, published are "
                f"{row['published_parameters_millions']} M: it is not the published network"
            )
        if abs(row["gmacs"] / row["published_gmacs"] - 1) > FLOPS_TOLERANCE:
            raise UserError(
                f"{row['network']} takes {row['gmacs']:.2f} GMAC an image, published are "
                f"{row['published_gmacs']}: it is not the published network"
            )


def gpu_hours(experiment: Experiment, pair: str, weighed: pd.DataFrame) -> float | None:
    """GPU-hours of one seed's cohort on the published hardware; None where nothing is published.

    Per image one teacher pass at timm's measured inference rate and, for each method, one training
    step at its measured training rate: no losses, no data loading, no evaluation.
    """
    rates = weighed.set_index("network")
    section = experiment.pairs[pair]
    seconds = 1 / rates.loc[section.teacher.model.name, "published_infer_images_per_second"]
    for method in experiment.methods_of(pair):
        definition = experiment.method_definitions[method]
        student = student_model(section, pair, method, definition)
        seconds += 1 / rates.loc[student.name, "published_train_images_per_second"]
    images = experiment.table1.epochs * experiment.rehearsal.training_images
    hours = images * float(seconds) / 3600
    return None if pd.isna(hours) else hours


def gpu_memory(experiment: Experiment, recipe: str, found: dict) -> float:
    """Bytes of a process at the scale's own batch and cohorts: its state, and the largest graph.

    Memory holds one member's graph at a time. Workspaces, fragmentation and the caching of the
    allocator are not in it.
    """
    machine, section = experiment.machine, experiment.recipes[recipe]
    shards = max(1, section.shards // (machine.nodes * machine.processes))
    together = machine.shards_per_pass or shards
    images = together * section.batch_size // section.shards
    return found["teacher_bytes"] + max(
        sum(found["state_bytes"][method] for method in cohort)
        + images * max(found["activation_bytes"][method] for method in cohort)
        for cohort in experiment.cohorts(found["pair"])
    )


def collect(experiment: Experiment) -> str:
    """Write rehearsal.md, rehearsal.csv and rehearsal_networks.csv; return the first.

    Raises:
        UserError: a network's parameters or FLOPs are not the published ones.
    """
    weighed = networks(experiment)
    check_published(weighed)
    kept = ("pair", "recipe", "steps", "resumed_at", "peak_memory_gib")
    rows = []
    for pair in experiment.table1.pairs:
        for recipe in experiment.rehearsed_recipes():
            found = read_run(rehearsal_path(experiment, pair, recipe))
            rows.append(
                {key: found[key] for key in (*kept, "device", "processes", "duplicate_share")}
                | {
                    "methods": len(found["methods"]),
                    **_slowest_and_fastest(found["methods"]),
                    "epochs": experiment.table1.epochs,
                    "gpu_memory_gib": gpu_memory(experiment, recipe, found) / GIB,
                    "gpu_hours_per_seed": gpu_hours(experiment, pair, weighed),
                }
            )
    runs = pd.DataFrame(rows)
    directory = experiment.directory
    write_text(directory / "rehearsal_networks.csv", weighed.to_csv(index=False))
    write_text(directory / "rehearsal.csv", runs.to_csv(index=False))
    text = _markdown(experiment, weighed, runs)
    write_text(directory / "rehearsal.md", text)
    return text


def _slowest_and_fastest(methods: dict[str, dict]) -> dict[str, float]:
    rates = [method["images_per_second"] for method in methods.values()]
    return {"images_per_second_slowest": min(rates), "images_per_second_fastest": max(rates)}


def rehearsal_path(experiment: Experiment, pair: str, recipe: str) -> Path:
    return experiment.directory / "rehearsal" / f"{pair}-{recipe}.json"


def _markdown(experiment: Experiment, weighed: pd.DataFrame, runs: pd.DataFrame) -> str:
    def shown(value: object, form: str) -> str:
        return MISSING if pd.isna(value) else f"{value:{form}}"

    nets = pd.DataFrame(
        [
            {
                "Network": row["network"],
                "Parameters": f"{row['parameters']:,}",
                "Published (M)": shown(row["published_parameters_millions"], ".2f"),
                "GMAC an image": f"{row['gmacs']:.3g}",
                "Published GMAC": shown(row["published_gmacs"], ".2f"),
            }
            for _, row in weighed.iterrows()
        ]
    )
    hardware = weighed["published_hardware"].dropna().unique()
    first = runs.iloc[0]
    table = pd.DataFrame(
        [
            {
                "Pair": row["pair"],
                "Recipe": row["recipe"],
                "Methods": row["methods"],
                "Steps": row["steps"],
                "Killed after, resumed at": row["resumed_at"],
                "Images/s here": f"{row['images_per_second_slowest']:.2g} to "
                f"{row['images_per_second_fastest']:.2g}",
                "Peak memory here (GiB)": f"{row['peak_memory_gib']:.1f}",
                "Memory a process, projected (GiB)": f"{row['gpu_memory_gib']:.1f}",
                "GPU-hours a seed, projected": shown(row["gpu_hours_per_seed"], ",.0f"),
            }
            for _, row in runs.iterrows()
        ]
    )
    small = experiment.rehearsal
    return "\n".join(
        [
            f"# Rehearsal of {experiment.name}",
            "",
            f"Every pair and recipe at {experiment.data.image_size}×{experiment.data.image_size} "
            f"pixels and {small.classes} classes, teacher with random weights, all methods: "
            f"{small.steps} steps of {small.batch_size} images in {small.shards} shards on "
            f"{first['processes']} process(es) ({first['device']}); one process killed after step "
            f"{small.killed_after}, resumed from the checkpoint, evaluated. Images/s are of one "
            "method with its teacher's pass, the slowest to the fastest; memory is the processes' "
            f"together, {small.cohort_size} methods at a time, without data loading workers.",
            "",
            table.to_markdown(index=False),
            "",
            f"Projection: {experiment.table1.epochs} epochs of {small.training_images:,} images, "
            "one teacher pass and one training step of every method's student an image, at the "
            f"throughput that timm publishes for {', '.join(hardware) or 'no hardware'}; losses, "
            f"data loading and evaluation are not in it. Sources: {experiment.networks}. Memory: "
            "the scale's own batch on "
            f"{experiment.machine.nodes * experiment.machine.processes} process(es); weights, "
            "gradients, moments and EMA of every method, the teacher, and what the largest method "
            "keeps for its backward pass, counted here from the tensors that autograd saves; "
            "workspaces and fragmentation come on top.",
            "",
            nets.to_markdown(index=False),
            "",
        ]
    )


def main() -> None:
    parser = command.parser("benchmarks.rehearse", __doc__)
    parser.add_argument("--pair")
    parser.add_argument("--recipe")
    parser.add_argument("--images", action="store_true", help="make the images alone")
    parser.add_argument("--collect", action="store_true", help="write the table")
    parser.add_argument("--train", nargs="+", metavar="METHOD", help="be one of the processes")
    parser.add_argument("--killed-after", type=int, help="with --train: die after this step")
    options = parser.parse_args()
    experiment = command.experiment(options)
    folder = experiment.directory / "rehearsal"
    if options.images:
        make_images(experiment, folder / "images")
    elif options.collect:
        print(collect(experiment))
    elif options.pair not in experiment.pairs or options.recipe not in experiment.recipes:
        raise UserError(
            f"--pair must be one of {', '.join(experiment.pairs)} and --recipe one of "
            f"{', '.join(experiment.recipes)}; got {options.pair!r} and {options.recipe!r}"
        )
    elif options.train:
        train_rehearsal(
            experiment, options.pair, options.recipe, options.train, options.killed_after
        )
    else:
        found = rehearse(options.config, experiment, options.pair, options.recipe)
        path = rehearsal_path(experiment, options.pair, options.recipe)
        write_text(path, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    command.run(main)
