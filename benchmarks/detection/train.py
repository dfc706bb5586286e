"""Train detectors on students' backbones with mmengine's Runner, and measure them.

Below ``detection/PAIR/RECIPE/EPOCHS/DETECTOR/METHOD/seed-SEED`` stand the detector's weights, its
predictions on the test images in COCO's format, its losses and run.json. A detector that was
interrupted goes on from its last epoch.
"""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import json
import math
import os
import shutil
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.device import utils as mmengine_device
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from benchmarks.detection import (
    DETECTOR_FILES,
    compatibility,  # noqa: F401 (registers its hooks)
)
from benchmarks.detection.average_precision import average_precision
from benchmarks.detection.cells import DetectorCell
from benchmarks.detection.configuration import configure
from benchmarks.detection.curve import CURVE_FILE, curve_hook
from benchmarks.detection.data import annotation_file
from benchmarks.evidence.kept import is_kept, keep
from manifold import ranks
from manifold.errors import UserError, telling_of_a_full_disk
from manifold.files import sha256, write_text
from manifold.models import count_parameters, save_weights
from manifold.seeds import derive, reseed
from manifold.settings import Experiment, Machine, fingerprint, to_plain
from manifold.settings.made_by import is_outdated_job
from manifold.settings.sources import job_hash
from manifold.training.alone import alone_on
from manifold.training.description import describe_environment
from manifold.training.progress import progress
from manifold.training.records import write_run

PACKAGES = ("mmdet", "mmengine", "pycocotools", "opencv-python")


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show all of a training's steps as one task, which ends where the loss is not finite."""

    def __init__(self, description: str):
        self.description = description
        self.shown = None

    def before_train(self, runner: Runner) -> None:
        if runner.iter and ranks.is_first():
            print(f"resuming {self.description} at step {runner.iter}", file=sys.stderr)
        self.shown = progress(
            what=self.description,
            unit="step",
            total=runner.max_iters,
            initial=runner.iter,
            disable=not ranks.is_first(),
        )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = outputs["loss"].item()
        if not math.isfinite(loss):
            raise UserError(
                f"{self.description}: the loss of step {runner.iter + 1} is {loss}; lower "
                "optim_wrapper.optimizer.lr or set optim_wrapper.clip_grad in detection.options"
            )
        self.shown.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self.shown.update()

    def after_train(self, runner: Runner) -> None:
        self.shown.close()


def train(cell: DetectorCell, *hooks: Hook) -> None:
    """Train a detector, or go on with it, and write its files; nothing where they are to stay.

    What another process is training is waited for.

    Args:
        hooks: what else is to watch the training.

    Raises:
        UserError: the student or the data are missing or damaged; the loss is not finite.
    """
    with alone_on([cell.directory]), telling_of_a_full_disk(cell.state):
        _train(cell, *hooks)


def _train(cell: DetectorCell, *hooks: Hook) -> None:
    settings = configure(cell)
    identity = cell.identity(settings)
    digest = fingerprint(identity)
    if is_kept(cell.experiment, __name__, cell.directory, DETECTOR_FILES, digest):
        if ranks.is_first():
            keep(cell.directory, DETECTOR_FILES)
        return
    made_by = begin(cell, digest)
    runner = build_runner(cell, settings, digest)
    for hook in hooks:
        runner.register_hook(hook)
    started = time.perf_counter()
    model = runner.train()
    seconds = time.perf_counter() - started
    images = runner.max_epochs * len(runner.train_dataloader.dataset)
    runner.test()
    if is_model_wrapper(model):  # of several processes
        model = model.module
    if ranks.is_first():
        run = {
            "fingerprint": digest,
            "configuration": identity,
            "source_hash": made_by,
            "wall_seconds": seconds,
            "images_seen": images,
        }
        _write(cell, settings, model, run, Path(runner.work_dir))
        shutil.rmtree(cell.state)


def begin(cell: DetectorCell, digest: str) -> str:
    """Return the hash of the sources that a training was begun with, now or before it was cut.

    What sources began that are to be followed, and have changed since, is thrown away.

    Args:
        digest: of the configuration.
    """
    work = work_folder(cell, digest)
    begun_by = work / "source_hash"
    if ranks.is_first():
        if begun_by.is_file() and is_outdated_job(
            cell.experiment, __name__, begun_by.read_text(encoding="utf-8")
        ):
            print(f"{work} was begun by other code; starting anew", file=sys.stderr)
            shutil.rmtree(work)
        if not begun_by.is_file():
            write_text(begun_by, job_hash(__name__))
    if dist.is_initialized():
        dist.barrier()  # all have waited for the first before they look for a checkpoint
    return begun_by.read_text(encoding="utf-8")


def work_folder(cell: DetectorCell, digest: str) -> Path:
    """Where checkpoints of one configuration stand while it is trained."""
    return cell.state / digest[:16]


def build_runner(cell: DetectorCell, settings: Config, digest: str) -> Runner:
    """The Runner of a configuration, in a folder of its own whose checkpoint it goes on from."""
    settings = deepcopy(settings)
    work = work_folder(cell, digest)
    settings.work_dir = str(work)
    settings.resume = True
    latest = work / "last_checkpoint"
    # A kill while it was written leaves a name of no checkpoint.
    if latest.is_file() and not Path(latest.read_text(encoding="utf-8")).is_file():
        latest.unlink(missing_ok=True)
    # mmengine keeps one visualizer of a name, with the folder that it was made for.
    settings.visualizer.name = f"{settings.experiment_name}-{time.time_ns()}"
    settings.launcher = "pytorch" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"
    # Replicas stay where they are; mmengine would put each on a GPU, also where there is none.
    settings.setdefault("model_wrapper_cfg", dict(broadcast_buffers=False, device_ids=None))
    settings.test_evaluator.outfile_prefix = str(work / "predictions")
    settings.custom_hooks = [
        *settings.get("custom_hooks", []),
        dict(type="PlainCheckpointHook"),
        dict(type="EpochSeedHook", seed=cell.seed),
        dict(type="ProgressHook", description=settings.experiment_name),
        *curve_hook(settings, work),
    ]
    runner = Runner.from_cfg(settings)
    # The heads are initialised after the backbone, which draws more or less by its kind.
    reseed(derive(cell.seed, "detection", "heads"))
    return runner


def _write(
    cell: DetectorCell, settings: Config, model: nn.Module, run: dict[str, Any], work: Path
) -> None:
    """Write a detector's files, the record last.

    Args:
        run: what the record is to hold beside what is measured here.
        work: where the training has left its predictions and losses.
    """
    directory = cell.directory
    directory.mkdir(parents=True, exist_ok=True)
    save_weights(model, directory / "detector.safetensors")
    write_text(directory / "metrics.csv", _losses(work).to_csv(index=False))
    annotations, result = annotation_file(cell.experiment, cell.study.evaluated), {}
    curve = work / CURVE_FILE
    files = ["detector.safetensors", "metrics.csv"]
    for kind in settings.test_evaluator.metric:
        name = f"predictions.{kind}.json"
        os.replace(work / name, directory / name)
        files.append(name)
        result[kind] = average_precision(annotations, directory / name, kind)
        chance = average_precision(
            annotations, directory / name, kind, derive(cell.seed, "random classes")
        )
        result[kind]["ap_random_classes"] = chance["ap"]
    record = {
        **run,
        "detector": cell.detector,
        "method": cell.method,
        "seed": cell.seed,
        "result": result,
        "validation": json.loads(curve.read_text(encoding="utf-8")) if curve.is_file() else [],
        "epochs": settings.train_cfg.max_epochs,
        "parameters": count_parameters(model),
        "backbone_parameters": count_parameters(model.backbone),
        "environment": describe_environment(next(model.parameters()).device, PACKAGES)
        | {"machine": to_plain(cell.experiment.machine)},
        "files": {name: sha256(directory / name) for name in files},
    }
    write_run(directory / "run.json", record)


def _losses(work: Path) -> pd.DataFrame:
    """The losses that mmengine logged, step by step, over all starts of a training.

    A line that a kill or a full disk has cut is of a step that was taken again.
    """
    rows = [
        json.loads(line)
        for path in sorted(work.glob("*/vis_data/scalars.json"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.endswith("}")
    ]
    return pd.DataFrame([row for row in rows if "loss" in row]).drop_duplicates("step", keep="last")


def choose_device(machine: Machine) -> None:
    """Join the processes of torchrun, and let mmengine use the device that is named, and no other.

    It settles for a GPU when it is imported and sees one, and for the CPU where it sees none; it
    would join the processes too, but with GPUs alone.

    Raises:
        UserError: the device is not there.
    """
    ranks.start(machine.device)
    mmengine_device.DEVICE = torch.device(machine.device).type


def run(experiment: Experiment, detector: str, method: str, seed: int) -> None:
    """Train a detector on the student of a method and a seed.

    Raises:
        UserError: there is no such detector or backbone; or what ``train`` raises.
    """
    cell = DetectorCell(experiment, detector, method, seed)
    experiment.check_known("detector", detector, cell.study.settings.detectors)
    experiment.check_known("method", method, cell.study.backbones)
    choose_device(experiment.machine)
    train(cell)
    if dist.is_initialized():
        dist.destroy_process_group()
