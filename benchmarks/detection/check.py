"""What would stop the detectors after their students were trained, found before.

The user's annotations and images, the detectors' files, and their options: every detector is built
on a backbone of random weights with an image of each split, but not trained.
"""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.device import utils as mmengine_device

from benchmarks.detection import RANDOM, Detection
from benchmarks.detection.cells import DetectorCell
from benchmarks.detection.configuration import configure, read_settings
from benchmarks.detection.data import SPLITS
from benchmarks.detection.prepare import prepare, read_folder, tell, write
from benchmarks.detection.scenes import find_photographs
from benchmarks.detection.train import build_runner
from manifold.errors import UserError
from manifold.settings import Experiment


def check(study: Detection) -> None:
    """Read a user's data as a whole, then build every detector.

    Raises:
        UserError: annotations or images are broken; a photograph is unknown; an option is misspelt;
            a detector cannot be built.
    """
    experiment, data = study.experiment, study.settings.data
    for detector in study.settings.detectors:
        read_settings(experiment, detector)  # the options first: that takes no time
    contents: dict[str, Any] | None = None
    if data.folder is not None:
        contents, notes = read_folder(data)
        tell(experiment, notes)
    else:
        for split in SPLITS:
            find_photographs(getattr(data.scenes.photographs, split))
    with tempfile.TemporaryDirectory() as folder:
        small = _one_image_of_each(experiment, Path(folder), contents)
        for detector in study.settings.detectors:
            _build(DetectorCell(small, detector, RANDOM, study.seeds[0]))


def _one_image_of_each(
    experiment: Experiment, folder: Path, contents: dict[str, Any] | None
) -> Experiment:
    """The experiment in a folder of its own, where one image of each split is prepared."""
    detection = experiment.detection
    if contents is None:
        scenes = detection.data.scenes.replaced(train=1, test=1)
        detection = detection.replaced(data=detection.data.replaced(scenes=scenes))
    small = experiment.replaced(results=str(folder), detection=detection)
    data = small.studies["detection"].data_folder
    if contents is None:
        prepare(small)
    else:
        data.mkdir(parents=True)
        first = {split: _first_image(contents[split]) for split in SPLITS}
        write(small, data, first, {}, {})
    return small


def _first_image(content: dict[str, Any]) -> dict[str, Any]:
    """The content with the first image that has an annotation."""
    number = content["annotations"][0]["image_id"]
    return {
        **content,
        "images": [entry for entry in content["images"] if entry["id"] == number],
        "annotations": [e for e in content["annotations"] if e["image_id"] == number],
    }


def _build(cell: DetectorCell) -> None:
    """Make everything that a training is made of, and one image of each split.

    Raises:
        UserError: it cannot be made.
    """
    detection = cell.experiment.detection
    mmengine_device.DEVICE = torch.device("cpu").type  # here may be no other: a node for the others
    settings = configure(cell)
    settings.train_dataloader.num_workers = settings.test_dataloader.num_workers = 0
    for loader in (settings.train_dataloader, settings.test_dataloader):
        loader.pop("persistent_workers", None)
    try:
        runner = build_runner(cell, settings, "check")
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        loops = runner.train_loop, runner.test_loop
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        for loop in loops:
            runner.model.data_preprocessor(next(iter(loop.dataloader)))
    except UserError:
        raise
    except Exception as error:  # mmdet builds what it is told, and fails in any way
        raise UserError(
            f"detection.detectors.{cell.detector}: {detection.detectors[cell.detector]} cannot be "
            f"built with detection.options {detection.options}: {type(error).__name__}: {error}"
        ) from error
