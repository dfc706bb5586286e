"""The rehearsal of one detector on one student: trained, tested, weighed."""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import json
import math
import resource
import shutil
import time
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from benchmarks.detection import DETECTOR_FILES
from benchmarks.detection.cells import DetectorCell
from benchmarks.detection.configuration import configure, known_options, read_settings
from benchmarks.detection.prepare import prepare
from benchmarks.detection.rehearsal.detectors import weigh
from benchmarks.detection.rehearsal.folder import coco_folder
from benchmarks.detection.train import choose_device, train
from benchmarks.rehearsal.training import GIB
from manifold.errors import UserError
from manifold.files import write_text
from manifold.models import create_model, save_weights
from manifold.seeds import derive, reseed
from manifold.settings import Experiment, derived, to_plain
from manifold.training.command import limit_threads
from manifold.training.records import read_run


def run(experiment: Experiment, pair: str, detector: str) -> None:
    """Rehearse a detector on the student of a pair, and write what was found.

    Raises:
        UserError: there is no such pair or detector, or no image; or what ``rehearse`` raises.
    """
    study = experiment.studies["rehearsal_detection"]
    experiment.check_known("pair", pair, study.pairs())
    experiment.check_known("detector", detector, study.detection.settings.detectors)
    if not study.coco.is_dir():
        raise UserError(
            f"{study.coco} is missing; run python -m benchmarks rehearsal_detection folder"
        )
    small = rehearsed(experiment, pair, detector)
    choose_device(small.machine)
    limit_threads(small)
    found = rehearse(experiment, small, detector)
    write_text(study.record(pair, detector), json.dumps(found, indent=2) + "\n")


def rehearsed(experiment: Experiment, pair: str, detector: str) -> Experiment:
    """The scale with the rehearsal's data, options and machine, and a folder of its own."""
    study = experiment.studies["rehearsal_detection"]
    data = {"scenes": None, "folder": to_plain(coco_folder(experiment))}
    own = known_options(experiment, study.settings.options)
    options = {**study.detection.settings.options, **own}
    overrides = {
        "detection": {
            "pair": pair,
            "data": {**data, "masks": True, "channels": 3},
            "options": options,
        },
        "machine": {
            "device": "cpu",
            "nodes": 1,
            "processes": 1,
            "threads": study.settings.threads,
        },
        "results": str(study.folder),
        "name": f"{pair}-{detector}",
    }
    return derived(experiment, overrides)


class StepRecord(Hook):
    """Watches a training: the seconds and the loss of its last step, and every gradient.

    Attributes:
        shapes: (channels, height, width) of the step's images, before they are padded.
        without_gradient: trainable parameters that no step has given a gradient other than zero.
        frozen: parameters that are not trained.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = self.loss = math.nan
        self.shapes: list[list[int]] = []
        self.without_gradient: list[str] = []
        self.frozen: list[str] = []

    def before_train(self, runner: Runner) -> None:
        for name, parameter in runner.model.named_parameters():
            if parameter.requires_grad:
                self.without_gradient.append(name)
                parameter.register_post_accumulate_grad_hook(partial(self._see, name))
            else:
                self.frozen.append(name)

    def _see(self, name: str, parameter: nn.Parameter) -> None:
        if name in self.without_gradient and parameter.grad.any():
            self.without_gradient.remove(name)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.shapes = [list(image.shape) for image in data_batch["inputs"]]
        self.started = time.perf_counter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.seconds = time.perf_counter() - self.started
        self.loss = outputs["loss"].item()
        self.steps += 1


def rehearse(experiment: Experiment, small: Experiment, detector: str) -> dict[str, Any]:
    """Take a detector on a student of random weights from the data to the files of its cell.

    Args:
        experiment: the scale.
        small: its rehearsal, as ``rehearsed`` makes it.

    Raises:
        UserError: a parameter gets no gradient, or a file of the cell is missing.
    """
    settings = experiment.studies["rehearsal_detection"].settings
    pair, seed, data = small.detection.pair, small.seeds[0], small.data
    shutil.rmtree(small.directory, ignore_errors=True)
    prepare(small)
    cell = DetectorCell(small, detector, small.detection.baseline, seed)
    student = small.pairs[pair].student
    reseed(derive(seed, "detection rehearsal", pair))
    shape = data.image_shape
    save_weights(create_model(student, shape, small.rehearsal.classes), cell.student)
    configuration = configure(cell)
    record = StepRecord()
    train(cell, record)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if record.without_gradient:
        raise UserError(
            f"{detector} on the student of {pair}: no gradient reaches "
            f"{', '.join(record.without_gradient)}"
        )
    files = [path.name for path in sorted(cell.directory.iterdir())]
    missing = set(DETECTOR_FILES) - set(files)
    if missing:
        raise UserError(f"{cell.directory} lacks {', '.join(sorted(missing))}")
    made = read_run(cell.directory / "run.json")
    found = {
        "pair": pair,
        "network": student.name,
        "detector": detector,
        "images": record.shapes,
        "steps": record.steps,
        "step_seconds": record.seconds,
        "loss": record.loss,
        "frozen": record.frozen,
        "peak_memory_gib": peak / GIB,
        "device": made["environment"]["device"],
        "processor": made["environment"]["processor"],
        "threads": made["environment"]["threads"],
        "files": files,
        "predictions": {
            kind: len(
                json.loads(
                    (cell.directory / f"predictions.{kind}.json").read_text(encoding="utf-8")
                )
            )
            for kind in made["result"]
        },
        "ap_of_random_weights": {kind: ap["ap"] for kind, ap in made["result"].items()},
        **weigh(configuration, settings.counted_size),
        **schedule(experiment, detector),
    }
    shutil.rmtree(small.directory)  # weights, and random ones
    return found


def schedule(experiment: Experiment, detector: str) -> dict[str, int]:
    """What the scale's own configuration of a detector asks for: epochs, steps and images."""
    settings = read_settings(experiment, detector)
    machine = experiment.machine
    batch = settings.train_dataloader.batch_size * machine.nodes * machine.processes
    epochs = settings.train_cfg.max_epochs
    images = experiment.studies["rehearsal_detection"].settings.training_images
    return {
        "epochs": epochs,
        "batch": batch,
        "schedule_steps": epochs * math.ceil(images / batch),
        "schedule_images": epochs * images,
    }
