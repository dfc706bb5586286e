"""The rehearsal of one pair and recipe: trained, killed, resumed, evaluated."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import torch

from benchmarks.rehearsal.training import taken_path
from manifold.errors import UserError
from manifold.files import write_text
from manifold.models import create_model, save_weights
from manifold.seeds import derive
from manifold.settings import Experiment, derived, write_experiment
from manifold.training.launch import command_line
from manifold.training.records import read_run

TAKEN_BY_THE_FIRST = ("resumed_at", "steps", "device", "processes", "teacher_bytes")


def run(experiment: Experiment, pair: str, recipe: str) -> None:
    """Rehearse a pair under a recipe, and write what it took.

    Raises:
        UserError: there is no such pair or recipe, or no image; or what ``rehearse`` raises.
    """
    study = experiment.studies["rehearsal"]
    experiment.check_known("pair", pair, experiment.pairs)
    experiment.check_known("recipe", recipe, experiment.recipes)
    if not study.images.is_dir():
        raise UserError(f"{study.images} is missing; run python -m benchmarks rehearsal images")
    found = rehearse(rehearsed(experiment, pair, recipe), pair, recipe)
    write_text(study.record(pair, recipe), json.dumps(found, indent=2) + "\n")


def make_teacher(experiment: Experiment, pair: str, path: Path) -> None:
    """Write the weights of a pair's teacher as drawn, for the classes of the rehearsal's images."""
    data = experiment.data
    shape = data.image_shape
    torch.manual_seed(derive(experiment.seeds[0], "rehearsal", pair))
    teacher = experiment.pairs[pair].teacher.model
    save_weights(create_model(teacher, shape, experiment.rehearsal.classes), path)


def rehearsed(experiment: Experiment, pair: str, recipe: str) -> Experiment:
    """The scale with the rehearsal's images, batch, teacher and machine, in a folder of its own.

    That folder is made anew, with the teacher in it: no configuration may name a file that is not
    there.
    """
    study = experiment.studies["rehearsal"]
    small, machine = study.settings, experiment.machine
    folder = study.folder / "results" / f"{pair}-{recipe}"
    teacher = folder / f"teacher-{pair}.safetensors"
    shutil.rmtree(folder, ignore_errors=True)
    make_teacher(experiment, pair, teacher)
    has_gpus = machine.device.startswith("cuda") and torch.cuda.is_available()
    is_enough = not has_gpus or torch.cuda.device_count() >= small.processes
    processes = small.processes if is_enough else 1
    overrides = {
        "data": {
            "dataset": "folder",
            "folder": str(study.images),
            "validation": 0,
            "least_images_per_epoch": None,
        },
        "pairs": {pair: {"teacher": {"weights": str(teacher)}}},
        "recipes": {recipe: {"batch_size": small.batch_size, "shards": small.shards}},
        "machine": {
            "device": machine.device if has_gpus else "cpu",
            "nodes": 1,
            "processes": processes,
            "threads": max(1, len(os.sched_getaffinity(0)) // processes),
            "workers": small.workers,
        },
        "cohort": {"size": small.cohort_size},
        "results": str(folder.parent),
        "name": folder.name,
    }
    return derived(experiment, overrides)


def rehearse(small: Experiment, pair: str, recipe: str) -> dict:
    """Run, kill, resume and evaluate; return what it took.

    Args:
        small: the rehearsal of the scale, as ``rehearsed`` makes it.

    Raises:
        UserError: the killed run left no checkpoint, or the second did not go on from it.
    """
    write_experiment(small)
    methods = small.studies["rehearsal"].methods(pair)
    first, *others = small.in_cohorts(methods)
    _kill(small, pair, recipe, first)
    taken = [_finish(small, pair, recipe, methods) for methods in (first, *others)]
    killed_after = small.rehearsal.killed_after
    if taken[0]["resumed_at"] != killed_after:
        raise UserError(
            f"{pair}, recipe {recipe}: resumed at step {taken[0]['resumed_at']}, not {killed_after}"
        )
    seed = small.seeds[0]
    runs = {
        method: read_run(small.cell_directory(pair, recipe, 1, method, seed) / "run.json")
        for method in methods
    }
    shutil.rmtree(small.directory / "cells")  # random weights, gigabytes of them
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
            for name, run in runs.items()
        },
        "token_layouts": runs[small.table1.baseline]["resolved"]["token_layouts"],
        "duplicate_share": runs[small.table1.baseline]["duplicate_share"],
    }


def _kill(small: Experiment, pair: str, recipe: str, methods: list[str]) -> None:
    """Start a training that kills itself, and make sure that it did, after its checkpoint."""
    after = small.rehearsal.killed_after
    killed = _train(small, pair, recipe, methods, "--killed-after", str(after))
    if killed.returncode == 0:
        raise UserError(f"{pair}, recipe {recipe}: the process that was to be killed lived")
    if not list((small.directory / "state" / pair / recipe).rglob("seed-*.pt")):
        raise UserError(f"{pair}, recipe {recipe}: no checkpoint at step {after}:\n{killed.stderr}")


def _finish(small: Experiment, pair: str, recipe: str, methods: list[str]) -> dict:
    """Run a cohort to its end and return what it took."""
    finished = _train(small, pair, recipe, methods)
    if finished.returncode:
        raise UserError(f"{pair}, recipe {recipe} failed:\n{finished.stderr}")
    return json.loads(taken_path(small).read_text(encoding="utf-8"))


def _train(
    small: Experiment, pair: str, recipe: str, methods: list[str], *options: str
) -> subprocess.CompletedProcess:
    """Start the processes of a training, and wait for their end."""
    module = [
        *("-m", "benchmarks.rehearsal.training", "--experiment", str(small.file)),
        *("--pair", pair, "--recipe", recipe, "--methods", *methods, *options),
    ]
    words = command_line(1, small.machine.processes, module, dict(os.environ))
    return subprocess.run(words, stderr=subprocess.PIPE, text=True, encoding="utf-8")
