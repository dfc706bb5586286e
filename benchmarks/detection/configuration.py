"""mmdet's configuration of a detector, completed with what the student and the data decide."""

import contextlib
import math
from copy import deepcopy
from functools import lru_cache
from typing import Any

from mmengine.config import Config, ConfigDict

from benchmarks.dense import PATCH_EMBEDDING
from benchmarks.detection import VALIDATION, Detection
from benchmarks.detection.backbones import describe
from benchmarks.detection.cells import DetectorCell
from benchmarks.detection.data import annotation_file, categories, image_folder, read_record
from benchmarks.detection.options import fitting, nested
from manifold.errors import UserError
from manifold.seeds import derive
from manifold.settings import Experiment
from manifold.training.cells import student_model
from manifold.training.records import check_weights

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
NEVER = 10**9  # the epoch after which mmengine's own loop validates: CurveHook does it
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
    kind = "plain" if len(set(strides)) == 1 else "hierarchical"
    if not settings.necks.get(kind):
        raise UserError(
            f"{detection.detectors[cell.detector]}: 'necks' has no {kind!r}, which the student "
            f"{settings.model.backbone.name!r} needs (strides {strides})"
        )
    settings.model.neck = ConfigDict(settings.necks[kind], in_channels=widths)
    _set_strides(settings.model, strides)
    names = categories(experiment)
    for part in parts_of(settings.model):
        if "num_classes" in part:
            part.num_classes = len(names)
    if not detection.data.masks and settings.model.get("roi_head", {}).pop("mask_head", None):
        settings.model.roi_head.pop("mask_roi_extractor")
        settings.model.type = "FasterRCNN"
    _set_images(cell, settings, names)
    _set_epochs(experiment, settings)
    settings.randomness = dict(seed=derive(cell.seed, "detection"))
    settings.experiment_name = f"{cell.detector}-{cell.method}-{cell.seed}"
    return settings


def read_settings(experiment: Experiment, detector: str) -> Config:
    """A detector's configuration file with the scale's options, not yet completed.

    Options that another detector alone has the keys for are left out.

    Raises:
        UserError: it cannot be read, or lacks a section; no detector has an option's key.
    """
    study: Detection = experiment.studies["detection"]
    # mmengine takes "_delete_" out of what it merges.
    own = deepcopy(fitting(nested(study.settings.options), _configurations(study), detector))
    # mmengine formats the text of a configuration for seconds wherever it stores one.
    settings = Config(_configurations(study)[detector], format_python_code=False)
    file = study.configuration_file(detector)
    try:
        settings.merge_from_dict(own, allow_list_keys=True)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"detection.options {study.settings.options} cannot be laid over {file}: {error}"
        ) from error
    missing = [key for key in SECTIONS if not isinstance(settings.get(key), dict)]
    if missing:
        raise UserError(
            f"detection.detectors.{detector}: {file} lacks {', '.join(missing)}; write it as those "
            "in config/detection/ are"
        )
    return settings


def known_options(experiment: Experiment, options: dict[str, Any]) -> dict[str, Any]:
    """Those of some options that at least one detector has the keys for."""
    configurations, known = _configurations(experiment.studies["detection"]), {}
    for key, value in options.items():
        with contextlib.suppress(UserError):
            fitting(nested({key: value}), configurations, next(iter(configurations)))
            known[key] = value
    return known


def _configurations(study: Detection) -> dict[str, dict[str, Any]]:
    """What the file of every detector holds."""
    found = {}
    for detector in study.settings.detectors:
        file = study.configuration_file(detector)
        try:
            found[detector] = _read(str(file), file.read_bytes()).to_dict()
        except Exception as error:  # a configuration is Python, and may fail in any way
            raise UserError(
                f"detection.detectors.{detector}: {file} is no configuration of mmdet: "
                f"{type(error).__name__}: {error}"
            ) from error
    return found


@lru_cache
def _read(path: str, content: bytes) -> Config:
    """Read a file of this content; every detector's is looked at for each."""
    return Config.fromfile(path)


def _backbone(cell: DetectorCell, given: ConfigDict) -> ConfigDict:
    experiment, detection = cell.experiment, cell.experiment.detection
    pair = experiment.pairs[detection.pair]
    method = cell.study.source(cell.method)
    if method is None:
        model = pair.student
    else:
        definition = experiment.method_definitions[method]
        model = student_model(pair, detection.pair, method, definition)
        if not cell.student.is_file():
            raise UserError(f"{cell.student}: this student has not been trained; snakemake does it")
        check_weights(cell.student)
    data = experiment.data
    return ConfigDict(
        {
            **given,
            "type": "Student",
            "name": model.name,
            "arguments": model.arguments,
            "image_shape": data.image_shape,
            "weights": cell.student and str(cell.student),
            "channels": detection.data.channels,
            "patch_embedding_alone": cell.method == PATCH_EMBEDDING,
        }
    )


def parts_of(settings: Any) -> list[ConfigDict]:
    """Every mapping of a configuration, at any depth."""
    if isinstance(settings, dict):
        below = [part for value in settings.values() for part in parts_of(value)]
        return [settings, *below]
    if isinstance(settings, (list, tuple)):
        return [part for value in settings for part in parts_of(value)]
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
    for part in parts_of(model):
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
    study = cell.study
    _add_validation(study, settings)
    splits = dict(zip(LOADERS, ("train", VALIDATION, study.evaluated), strict=True))
    for loader, split in ((settings.get(name), split) for name, split in splits.items()):
        if loader is None or split not in study.splits:
            continue
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
    for evaluator, split in (("val_evaluator", VALIDATION), ("test_evaluator", study.evaluated)):
        if split in study.splits and settings.get(evaluator):
            settings[evaluator].update(
                ann_file=str(annotation_file(experiment, split)),
                metric=["bbox", "segm"] if _has_masks(settings) else ["bbox"],
            )


def _add_validation(study: Detection, settings: Config) -> None:
    """Have the validation images read and predicted as the test's are, after epochs.

    A training that counts in steps has none.
    """
    if VALIDATION not in study.splits or "max_epochs" not in settings.train_cfg:
        return
    settings.val_cfg = dict(type="ValLoop")
    settings.val_dataloader = deepcopy(settings.test_dataloader)
    own = {"type": "ValidationAP", "format_only": True}
    settings.val_evaluator = {**deepcopy(settings.test_evaluator), **own}
    settings.train_cfg.val_begin = NEVER


def _set_epochs(experiment: Experiment, settings: Config) -> None:
    """Train on few images for so many epochs that the steps are as many as the scale asks for."""
    detection, machine = experiment.detection, experiment.machine
    is_said = "max_epochs" in nested(detection.options).get("train_cfg", {})
    if detection.least_steps is None or is_said or "max_epochs" not in settings.train_cfg:
        return
    images = images_trained_on(settings, read_record(experiment)["splits"]["train"])
    batch = settings.train_dataloader.batch_size * machine.nodes * machine.processes
    epochs = math.ceil(detection.least_steps / math.ceil(images / batch))
    settings.train_cfg.max_epochs = max(settings.train_cfg.max_epochs, epochs)


def images_trained_on(settings: Config, counted: dict[str, int]) -> int:
    """How many of the training images, as ``prepare.count`` counts, mmdet takes."""
    is_filtered = settings.train_dataloader.dataset.get("filter_cfg", {}).get("filter_empty_gt")
    return counted["images"] - (counted["images_without_annotations"] if is_filtered else 0)


def _has_masks(settings: Config) -> bool:
    return "mask_head" in settings.model.get("roi_head", {})
