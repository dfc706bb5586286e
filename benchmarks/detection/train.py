"""Train detectors on students' backbones with mmengine's Runner, and measure them.

``python -m benchmarks.detection.train --config scale=mini --detector mask_rcnn --seed 0 \\
    --methods soft_kd manifold random`` writes, below
``detection/PAIR/RECIPE/EPOCHS/DETECTOR/METHOD/seed-0``, the detector's weights, its predictions on
the test images in COCO's format, its losses and run.json.
A detector that was interrupted goes on from its last epoch.
"""

import json
import math
import os
import shutil
import sys
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from mmdet.registry import HOOKS
from mmengine.config import Config, ConfigDict
from mmengine.device import utils as mmengine_device
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from tqdm import tqdm

from benchmarks.detection import compatibility  # noqa: F401 (registers its hooks)
from benchmarks.detection.average_precision import average_precision
from benchmarks.detection.backbones import describe
from benchmarks.detection.prepare import SPLITS, annotation_file, categories, image_folder
from manifold import command, config, ranks
from manifold.config import DETECTOR_FILES, RANDOM, ROOT, Experiment, Machine
from manifold.errors import UserError
from manifold.files import sha256, write_text
from manifold.models import count_parameters, save_weights
from manifold.records import check_weights, describe_environment, is_complete, write_run
from manifold.runs import student_model
from manifold.seeds import derive, reseed

PACKAGES = ("mmdet", "mmengine", "pycocotools", "opencv-python")


@dataclass
class DetectorCell:
    """One run: a detector on the backbone of one method's student of one seed."""

    experiment: Experiment
    detector: str
    method: str
    seed: int

    @property
    def directory(self) -> Path:
        return self.experiment.detector_directory(self.detector, self.method, self.seed)

    @property
    def state(self) -> Path:
        """Where checkpoints stand while it is trained."""
        name = f"{self.detector}-{self.method}-seed-{self.seed}"
        return self.experiment.directory / "state" / "detection" / name

    @property
    def student(self) -> Path | None:
        """The student's weights; None for random ones."""
        return self.experiment.backbone_student(self.method, self.seed)

    def identity(self, settings: Config) -> dict[str, Any]:
        """What shapes the detector: its configuration, the student's bytes, the data's."""
        experiment = self.experiment
        return {
            "settings": settings.to_dict(),
            "student_sha256": self.student and sha256(self.student),
            "data": {split: sha256(annotation_file(experiment, split)) for split in SPLITS},
        }

    def is_complete(self, fingerprint: str) -> bool:
        """Whether the folder holds the files of this very configuration, unharmed."""
        return is_complete(self.directory, DETECTOR_FILES, "run.json", fingerprint)


SECTIONS = ("model", "necks", "train_dataloader", "test_dataloader", "test_evaluator", "train_cfg")


def configure(cell: DetectorCell) -> Config:
    """mmdet's configuration of a detector, completed with what the student and the data decide.

    These are the backbone, the pyramid for its kind, the strides, the classes, the images' channels
    and normalisation, whether there are masks, the paths, and the seed.

    Raises:
        UserError: the configuration cannot be read, or has no pyramid for this kind of backbone;
            the student's file is missing, damaged or of another network.
    """
    experiment, detection = cell.experiment, cell.experiment.detection
    settings = read_settings(experiment, cell.detector)
    settings.model.backbone = _backbone(cell, settings.model.get("backbone", {}))
    strides, widths = describe(settings.model.backbone)
    kind = "plain" if len(strides) == 1 else "hierarchical"
    if not settings.necks.get(kind):
        raise UserError(
            f"{detection.detectors[cell.detector]}: 'necks' has no {kind!r}, which the student "
            f"{settings.model.backbone.name!r} needs (strides {strides})"
        )
    settings.model.neck = ConfigDict(settings.necks[kind], in_channels=widths)
    _set_strides(settings.model, strides)
    names = categories(experiment)
    for part in _parts(settings.model):
        if "num_classes" in part:
            part.num_classes = len(names)
    if not detection.data.masks and settings.model.get("roi_head", {}).pop("mask_head", None):
        settings.model.roi_head.pop("mask_roi_extractor")
        settings.model.type = "FasterRCNN"
    _set_images(cell, settings, names)
    settings.randomness = dict(seed=derive(cell.seed, "detection"))
    settings.experiment_name = f"{cell.detector}-{cell.method}-{cell.seed}"
    return settings


def read_settings(experiment: Experiment, detector: str) -> Config:
    """A detector's configuration file with the scale's options, not yet completed.

    Raises:
        UserError: it cannot be read, or lacks a section.
    """
    detection = experiment.detection
    path = Path(detection.detectors[detector])
    try:
        # mmengine formats the text of a configuration for seconds wherever it stores one.
        read = Config.fromfile(ROOT / path)
        settings = Config(read.to_dict(), filename=read.filename, format_python_code=False)
        settings.merge_from_dict(detection.options, allow_list_keys=True)
    except Exception as error:  # a configuration is Python, and may fail in any way
        raise UserError(
            f"detection.detectors.{detector}: {path} (with detection.options "
            f"{detection.options}) is no configuration of mmdet: {type(error).__name__}: {error}"
        ) from error
    missing = [key for key in SECTIONS if not isinstance(settings.get(key), dict)]
    if missing:
        raise UserError(
            f"detection.detectors.{detector}: {path} lacks {', '.join(missing)}; write it as "
            "those in config/detection/ are"
        )
    return settings


def _backbone(cell: DetectorCell, given: ConfigDict) -> ConfigDict:
    experiment, detection = cell.experiment, cell.experiment.detection
    pair = experiment.pairs[detection.pair]
    if cell.method == RANDOM:
        model = pair.student
    else:
        definition = experiment.method_definitions[cell.method]
        model = student_model(pair, detection.pair, cell.method, definition)
        if cell.student.is_file():
            check_weights(cell.student)
        else:
            raise UserError(f"{cell.student}: this student has not been trained; snakemake does it")
    data = experiment.data
    return ConfigDict(
        {
            **given,
            "type": "Student",
            "name": model.name,
            "arguments": model.arguments,
            "image_shape": (data.channels, data.image_size, data.image_size),
            "weights": cell.student and str(cell.student),
            "channels": detection.data.channels,
        }
    )


def _parts(settings: Any) -> list[ConfigDict]:
    """Every mapping of a configuration, at any depth."""
    if isinstance(settings, dict):
        below = [part for value in settings.values() for part in _parts(value)]
        return [settings, *below]
    if isinstance(settings, (list, tuple)):
        return [part for value in settings for part in _parts(value)]
    return []


def _set_strides(model: ConfigDict, strides: list[int]) -> None:
    """Give anchors and regions the strides of the pyramid's levels, in pixels."""
    neck = model.neck
    if "scales" in neck:  # the levels of a plain network's one map
        levels = [strides[0] / scale for scale in neck.scales]
    else:
        levels = list(strides[neck.get("start_level", 0) :])
    model.data_preprocessor.pad_size_divisor = int(max(levels))
    own = len(levels)
    while len(levels) < neck.num_outs:
        levels.append(levels[-1] * 2)
    for part in _parts(model):
        if "anchor_generator" in part:
            part.anchor_generator.strides = levels
        if "featmap_strides" in part:
            part.featmap_strides = levels[:own]


def _set_images(cell: DetectorCell, settings: Config, names: list[str]) -> None:
    """Paths, classes, colour, normalisation and masks of the images."""
    experiment, data = cell.experiment, cell.experiment.detection.data
    preprocessor = settings.model.data_preprocessor
    mean, std = experiment.data.mean, experiment.data.std
    if len(mean) != data.channels:
        mean, std = ([sum(v) / len(v)] * data.channels for v in (mean, std))
    preprocessor.mean, preprocessor.std = ([255 * v for v in values] for values in (mean, std))
    preprocessor.bgr_to_rgb = data.channels == 3
    preprocessor.pad_mask = _has_masks(settings)
    for split, loader in (("train", settings.train_dataloader), ("test", settings.test_dataloader)):
        loader.dataset.update(
            data_root="",  # relative paths are this project's, not COCO's folder's
            metainfo=dict(classes=tuple(names)),
            ann_file=str(annotation_file(experiment, split)),
            data_prefix=dict(img=f"{image_folder(experiment, split)}/"),
        )
        for step in loader.dataset.pipeline:
            if isinstance(step.get("scale"), list):  # YAML has no tuples, and mmcv takes no lists
                step["scale"] = tuple(step["scale"])
            if step["type"] == "LoadImageFromFile":
                step["color_type"] = "color" if data.channels == 3 else "grayscale"
            if step["type"] == "LoadAnnotations":
                step["with_mask"] = _has_masks(settings)
    settings.test_evaluator.update(
        ann_file=str(annotation_file(experiment, "test")),
        metric=["bbox", "segm"] if _has_masks(settings) else ["bbox"],
    )


def _has_masks(settings: Config) -> bool:
    return "mask_head" in settings.model.get("roi_head", {})


@HOOKS.register_module()
class ProgressHook(Hook):
    """One progress bar over all of a training's steps, which end where the loss is not finite."""

    def __init__(self, description: str):
        self.description = description
        self.bar = None

    def before_train(self, runner: Runner) -> None:
        self.bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            desc=self.description,
            unit="step",
            mininterval=5,
            disable=not _is_first(),
        )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = outputs["loss"].item()
        if not math.isfinite(loss):
            raise UserError(
                f"{self.bar.desc}: the loss of step {runner.iter + 1} is {loss}; lower "
                "optim_wrapper.optimizer.lr or set optim_wrapper.clip_grad in detection.options"
            )
        self.bar.update()
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def after_train(self, runner: Runner) -> None:
        self.bar.close()


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def train(cell: DetectorCell, *hooks: Hook) -> None:
    """Train a detector, or go on with it, and write its files; nothing where they are there.

    Args:
        hooks: what else is to watch the training.

    Raises:
        UserError: the student or the data are missing or damaged; the loss is not finite.
    """
    settings = configure(cell)
    identity = config.to_plain(cell.identity(settings))
    fingerprint = config.fingerprint(identity)
    if cell.is_complete(fingerprint):
        if _is_first():
            print(f"{cell.directory} is complete", file=sys.stderr)
            for name in DETECTOR_FILES:
                os.utime(cell.directory / name)  # up to date with a student that was only touched
        return
    runner = build_runner(cell, settings, fingerprint)
    for hook in hooks:
        runner.register_hook(hook)
    started = time.perf_counter()
    model = runner.train()
    seconds = time.perf_counter() - started
    images = runner.max_epochs * len(runner.train_dataloader.dataset)
    runner.test()
    if is_model_wrapper(model):  # of several processes
        model = model.module
    if _is_first():
        run = {"wall_seconds": seconds, "images_seen": images}
        _write(cell, settings, identity, model, run, Path(runner.work_dir))
        shutil.rmtree(cell.state)


def build_runner(cell: DetectorCell, settings: Config, fingerprint: str) -> Runner:
    """The Runner, in a folder of its own whose checkpoint it goes on from."""
    settings = deepcopy(settings)
    work = cell.state / fingerprint[:16]
    settings.work_dir = str(work)
    settings.resume = True
    latest = work / "last_checkpoint"
    if latest.is_file() and not Path(latest.read_text()).is_file():  # killed while it was written
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
    ]
    runner = Runner.from_cfg(settings)
    # The heads are initialised after the backbone, which draws more or less by its kind.
    reseed(derive(cell.seed, "detection", "heads"))
    return runner


def _write(cell, settings, identity, model, run: dict[str, Any], work: Path) -> None:
    directory = cell.directory
    directory.mkdir(parents=True, exist_ok=True)
    save_weights(model, directory / "detector.safetensors")
    write_text(directory / "metrics.csv", _losses(work).to_csv(index=False))
    annotations, result = annotation_file(cell.experiment, "test"), {}
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
        "fingerprint": config.fingerprint(identity),
        "configuration": identity,
        "detector": cell.detector,
        "method": cell.method,
        "seed": cell.seed,
        "result": result,
        **run,
        "epochs": settings.train_cfg.max_epochs,
        "parameters": count_parameters(model),
        "backbone_parameters": count_parameters(model.backbone),
        "environment": describe_environment(next(model.parameters()).device, PACKAGES)
        | {"machine": config.to_plain(cell.experiment.machine)},
        "files": {name: sha256(directory / name) for name in files},
    }
    write_run(directory / "run.json", record)


def _losses(work: Path) -> pd.DataFrame:
    """The losses that mmengine logged, step by step, over all starts of a training."""
    rows = [
        json.loads(line)
        for path in sorted(work.glob("*/vis_data/scalars.json"))
        for line in path.read_text().splitlines()
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


def main() -> None:
    parser = command.parser("benchmarks.detection.train", __doc__)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--methods", nargs="+", required=True, help=f"of students, or {RANDOM!r}")
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    experiment = command.experiment(options)
    if experiment.detection is None:
        raise UserError(f"scale {experiment.scale!r} has no section 'detection'")
    choose_device(experiment.machine)
    if options.detector not in experiment.detection.detectors:
        known = experiment.detection.detectors
        raise UserError(
            f"--detector: unknown {options.detector!r}.{config.suggest(options.detector, known)}"
        )
    for method in options.methods:
        train(DetectorCell(experiment, options.detector, method, options.seed))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    command.run(main)
