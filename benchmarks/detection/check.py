"""What would stop the detectors after their students were trained, found before.

The user's annotations and images, the detectors' files, and their options: every detector is built
on a backbone of random weights, takes a step on one image and predicts another.
"""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import utils as mmengine_device
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop, Runner

from benchmarks.dense import FOLDER_SPLITS
from benchmarks.detection import RANDOM, Detection
from benchmarks.detection.cells import DetectorCell
from benchmarks.detection.configuration import (
    LOADERS,
    configure,
    images_trained_on,
    parts_of,
    read_settings,
)
from benchmarks.detection.prepare import count, prepare, read_folder, tell, write
from benchmarks.detection.scenes import WHERE
from benchmarks.detection.train import build_runner
from benchmarks.scenes.compose import find_photographs
from manifold.errors import UserError
from manifold.settings import Experiment


def check(study: Detection) -> None:
    """Read a user's data as a whole, then try every detector.

    Raises:
        UserError: annotations or images are broken; a photograph is unknown; an option is misspelt;
            a detector cannot be built, or does not take a step.
    """
    experiment, data = study.experiment, study.settings.data
    # The options first: that takes no time.
    read = {name: read_settings(experiment, name) for name in study.settings.detectors}
    contents: dict[str, Any] | None = None
    if data.folder is not None:
        contents, notes = read_folder(data)
        tell(experiment, notes)
        counted = count(contents["train"])
    else:
        counted = {"images": data.scenes.train, "images_without_annotations": 0}
        for split in study.splits:
            find_photographs(getattr(data.scenes.photographs, split), WHERE)
    for detector, settings in read.items():
        _check_batch(experiment, detector, settings, images_trained_on(settings, counted))
    with tempfile.TemporaryDirectory() as folder:
        small = _one_image_of_each(experiment, Path(folder), contents)
        for detector in study.settings.detectors:
            _try(DetectorCell(small, detector, RANDOM, study.seeds[0]))


def _check_batch(experiment: Experiment, detector: str, settings: Config, images: int) -> None:
    """Refuse batches that would leave an epoch without a step.

    Raises:
        UserError: names the numbers.
    """
    loader, machine = settings.train_dataloader, experiment.machine
    here = images // (machine.nodes * machine.processes)
    if loader.get("drop_last") and loader.get("batch_size", 1) > here:
        raise UserError(
            f"detection.detectors.{detector}: train_dataloader drops the last batch, and "
            f"{here} training image(s) of a process do not fill one of {loader.batch_size}; lower "
            "batch_size in detection.options, or set drop_last to false"
        )


def _one_image_of_each(
    experiment: Experiment, folder: Path, contents: dict[str, Any] | None
) -> Experiment:
    """The experiment in a folder of its own, where one image of each split is prepared."""
    detection = experiment.detection
    if contents is None:
        study: Detection = experiment.studies["detection"]
        scenes = detection.data.scenes.replaced(**dict.fromkeys(study.splits, 1))
        detection = detection.replaced(data=detection.data.replaced(scenes=scenes))
    small = experiment.replaced(results=str(folder), detection=detection)
    data = small.studies["detection"].data_folder
    if contents is None:
        prepare(small)
    else:
        data.mkdir(parents=True)
        first = {split: _largest_image(contents[split]) for split in FOLDER_SPLITS}
        write(small, data, first, {}, {})
    return small


def _largest_image(content: dict[str, Any]) -> dict[str, Any]:
    """The content with one image that has objects: the largest, which no filter leaves out."""
    annotated = {entry["image_id"] for entry in content["annotations"] if not entry["iscrowd"]}
    sides = {
        entry["id"]: min(entry["width"], entry["height"])
        for entry in content["images"]
        if entry["id"] in annotated
    }
    number = max(sides, key=sides.get)
    return {
        **content,
        "images": [entry for entry in content["images"] if entry["id"] == number],
        "annotations": [e for e in content["annotations"] if e["image_id"] == number],
    }


class EndOfTrial(Exception):
    """The first epoch is over, which is all that a trial wants to see."""


class TrialHook(Hook):
    """End a training after its first epoch, when every other hook has had its turn."""

    priority = "LOWEST"

    def after_train_iter(self, runner: Runner, batch_idx: int, *_args: Any, **_named: Any) -> None:
        if batch_idx >= len(runner.train_dataloader):
            raise UserError("an epoch has no end with this train_dataloader.sampler")

    def after_train_epoch(self, runner: Runner) -> None:
        raise EndOfTrial


def _try(cell: DetectorCell) -> None:
    """Take a step on one image and predict another, with everything that a training is made of.

    Raises:
        UserError: it cannot be made, or fails.
    """
    detection = cell.experiment.detection
    mmengine_device.DEVICE = torch.device("cpu").type  # here may be no other: a node for the others
    settings = configure(cell)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its AP means nothing, and is no one's
            _make_small(settings)
            runner = build_runner(cell, settings, "check")
            _refuse_steps(runner)
            runner.register_hook(TrialHook())
            with contextlib.suppress(EndOfTrial):
                runner.train()
            runner.test()
    except UserError:
        raise
    except Exception as error:  # mmdet builds what it is told, and fails in any way
        raise UserError(
            f"detection.detectors.{cell.detector}: {detection.detectors[cell.detector]} cannot be "
            f"used with detection.options {detection.options}: {type(error).__name__}: {error}"
        ) from error


def _refuse_steps(runner: Runner) -> None:
    """Refuse a training that is not counted in epochs, as the table's budgets are.

    Raises:
        UserError: names the loop.
    """
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        raise UserError(
            f"train_cfg: {type(runner.train_loop).__name__} counts steps, and the table says after "
            "how many epochs and images a detector was measured; take EpochBasedTrainLoop with "
            "max_epochs"
        )


def _make_small(settings: Config) -> None:
    """Let a trial be short, load its images itself, keep each box that it predicts, need no GPU."""
    init_default_scope(settings.get("default_scope", "mmdet"))
    for loader in filter(None, map(settings.get, LOADERS)):
        Runner.build_dataloader(loader)  # as the training will have it: workers are not started
        for key in ("persistent_workers", "prefetch_factor", "timeout", "num_batch_per_epoch"):
            loader.pop(key, None)
        loader.update(num_workers=0, drop_last=False)
    settings.experiment_name = f"check of {settings.experiment_name}"
    epochs = settings.train_cfg.get("max_epochs")
    if isinstance(epochs, int) and epochs > 1:
        settings.train_cfg.max_epochs = 1
    for part in parts_of(settings.model):
        if "score_thr" in part:
            part.score_thr = 0.0  # weights that know nothing predict nothing else
    wrapper = settings.optim_wrapper
    if wrapper.get("type") == "AmpOptimWrapper" and not torch.cuda.is_available():
        wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)
