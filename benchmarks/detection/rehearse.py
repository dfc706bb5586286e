"""Rehearse the detectors without their data: one training step at full shapes, tested, weighed.

``python -m benchmarks.detection.rehearse --config scale=coco --data`` makes a small folder in
COCO's format. ``--pair PAIR --detector DETECTOR`` gives that pair's student fresh weights, takes a
detector on it through the very code of a real run, to the files of its cell, counts parameters and
FLOPs, and writes ``rehearsal/detection/PAIR/DETECTOR.json``. ``--collect`` writes
``rehearsal_detection.{md,csv}`` from all of them.

What it shows is that the code paths run at the scale's shapes, that a gradient reaches every
parameter, what the detectors weigh, and what this machine takes for them. The weights are random:
no AP means anything.
"""

import json
import math
import resource
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.detection.prepare import prepare
from benchmarks.detection.scenes import tight_box
from benchmarks.detection.train import DetectorCell, choose_device, configure, read_settings, train
from benchmarks.rehearse import GIB, JPEG_QUALITY, MISSING, countable_attention, crops
from manifold import command, config
from manifold.config import DETECTOR_FILES, CocoFolder, Experiment
from manifold.errors import UserError
from manifold.files import write_directory, write_text
from manifold.models import count_parameters, create_model, save_weights
from manifold.records import read_run
from manifold.seeds import derive, reseed

UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of 1 to 90, by COCO's 80 categories
CORNERS = 12  # of a polygon
PARTS = ("backbone", "pyramid", "heads")
PARAMETERS_TOLERANCE = 0.5e6  # published are whole millions
# Published FLOPs are whole billions; counted by mmdet's own tool, which counts modules with their
# norms and activations, others found 0.4 % less (Swin-Transformer-Object-Detection, issue 34).
FLOPS_TOLERANCE = 0.01


def folder_of(experiment: Experiment) -> Path:
    return experiment.directory / "rehearsal" / "detection"


def record_path(experiment: Experiment, pair: str, detector: str) -> Path:
    return folder_of(experiment) / pair / f"{detector}.json"


def coco_folder(experiment: Experiment) -> CocoFolder:
    """The images and annotations that the rehearsal makes, laid out as COCO's."""
    folder = folder_of(experiment) / "coco"
    return CocoFolder(
        train_images=str(folder / "train2017"),
        train_annotations=str(folder / "annotations" / "instances_train2017.json"),
        test_images=str(folder / "val2017"),
        test_annotations=str(folder / "annotations" / "instances_val2017.json"),
        ignored=[],
    )


def rehearsed(
    words: list[str], experiment: Experiment, pair: str, detector: str, threads: int
) -> Experiment:
    """The scale with the rehearsal's data, options and machine, and a folder of its own."""
    detection = experiment.detection
    data = {"scenes": None, "folder": config.to_plain(coco_folder(experiment))}
    overrides = {
        "detection": {
            "pair": pair,
            "data": {**data, "masks": True, "channels": 3},
            "options": {**detection.options, **detection.rehearsal.options},
        },
        "machine": {"device": "cpu", "nodes": 1, "processes": 1, "threads": threads},
        "results": str(folder_of(experiment)),
        "name": f"{pair}-{detector}",
    }
    return config.resolve(config.merge(config.parse_words(words), overrides))


# ---- what it needs ---------------------------------------------------------------------------


def make_folder(experiment: Experiment) -> None:
    """Write images and annotations in COCO's layout, with its 80 categories and their ids.

    The images are crops of scikit-learn's two photographs. Each has objects of all sizes, as
    polygons (the first in two parts), and one crowd as run lengths.
    """
    rehearsal, folder = experiment.detection.rehearsal, coco_folder(experiment)
    generator = np.random.default_rng(derive(experiment.seeds[0], "detection rehearsal"))
    ids = [number for number in range(1, 91) if number not in UNUSED_IDS]
    names = CocoDataset.METAINFO["classes"]
    categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]

    def write(partial_folder: Path) -> None:
        for split in ("train", "test"):
            images = partial_folder / Path(getattr(folder, f"{split}_images")).name
            annotations = partial_folder / "annotations"
            images.mkdir()
            annotations.mkdir(exist_ok=True)
            content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
            photographs = crops(rehearsal.jpeg_size, generator)
            for number in range(getattr(rehearsal, split)):
                photograph, name = next(photographs), f"{number + 1:012d}.jpg"
                photograph.save(images / name, quality=JPEG_QUALITY)
                _annotate(content, photograph, name, ids, experiment, generator)
            path = Path(getattr(folder, f"{split}_annotations"))
            (annotations / path.name).write_text(json.dumps(content))

    write_directory(Path(folder.train_images).parent, write)


def _annotate(
    content: dict[str, list],
    photograph: Image.Image,
    name: str,
    ids: list[int],
    experiment: Experiment,
    generator: np.random.Generator,
) -> None:
    """Add an image with its objects and its crowd to the lists of an annotation file."""
    rehearsal, (width, height) = experiment.detection.rehearsal, photograph.size
    number = len(content["images"]) + 1
    content["images"].append({"id": number, "file_name": name, "width": width, "height": height})

    def add(box: list[float], segmentation: Any, is_crowd: bool) -> None:
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": int(generator.choice(ids)),
                "bbox": box,
                "segmentation": segmentation,
                "iscrowd": int(is_crowd),
            }
        )

    for place, side in enumerate(height * np.geomspace(*rehearsal.sides, rehearsal.objects)):
        radius = side / 2
        centre = [generator.uniform(radius, whole - radius) for whole in (width, height)]
        parts = [_polygon(centre, radius, generator) for _ in range(2 if place == 0 else 1)]
        corners = np.concatenate(parts)
        low, extent = corners.min(axis=0), np.ptp(corners, axis=0)
        add([*low.tolist(), *extent.tolist()], [part.ravel().tolist() for part in parts], False)
    crowd = np.zeros((height, width), dtype=bool)
    crowd[: height // 4, : width // 3] = True
    add(tight_box(crowd), {"size": [height, width], "counts": _run_lengths(crowd)}, True)


def _polygon(centre: list[float], radius: float, generator: np.random.Generator) -> np.ndarray:
    """The corners (CORNERS, 2) of a rough disc."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    lengths = radius * generator.uniform(0.6, 1, CORNERS)
    return centre + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _run_lengths(mask: np.ndarray) -> list[int]:
    """The uncompressed runs of a mask (H, W), column by column, background first, as COCO's."""
    values = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(values, prepend=0))
    return np.diff([0, *edges, len(values)]).tolist()


# ---- one student, one detector -----------------------------------------------------------------


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
    pair, seed, data = small.detection.pair, small.seeds[0], small.data
    shutil.rmtree(small.directory, ignore_errors=True)
    prepare(small)
    cell = DetectorCell(small, detector, small.detection.baseline, seed)
    student = small.pairs[pair].student
    reseed(derive(seed, "detection rehearsal", pair))
    shape = (data.channels, data.image_size, data.image_size)
    save_weights(create_model(student, shape, small.rehearsal.classes), cell.student)
    settings = configure(cell)
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
    run = read_run(cell.directory / "run.json")
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
        "device": run["environment"]["device"],
        "processor": run["environment"]["processor"],
        "threads": run["environment"]["threads"],
        "files": files,
        "predictions": {
            kind: len(json.loads((cell.directory / f"predictions.{kind}.json").read_text()))
            for kind in run["result"]
        },
        "ap_of_random_weights": {kind: ap["ap"] for kind, ap in run["result"].items()},
        **weigh(settings, experiment.detection.rehearsal.counted_size),
        **schedule(experiment, detector),
    }
    shutil.rmtree(small.directory)  # weights, and random ones
    return found


def weigh(settings: Config, size: list[int]) -> dict[str, dict[str, float]]:
    """Parameters, and multiply-accumulates of one image's forward pass, part by part.

    Regions are as many as a test passes on, 1,000, and the mask branch sees mmdet's 100 of them.
    """
    with countable_attention():
        model = MODELS.build(settings.model)
    model.eval().requires_grad_(False)
    width, height = size
    images = torch.zeros(1, len(settings.model.data_preprocessor.mean), height, width)
    gmacs = {}
    with FlopCounterMode(display=False) as counter:
        maps = model.backbone(images)
        gmacs["backbone"] = counter.get_total_flops() / 2e9
        levels = model.neck(maps)
        gmacs["pyramid"] = counter.get_total_flops() / 2e9 - gmacs["backbone"]
        if hasattr(model, "roi_head"):
            model.rpn_head(levels)
            regions = torch.zeros(settings.model.test_cfg.rpn.max_per_img, 4)
            model.roi_head.forward(levels, [InstanceData(bboxes=regions)])
        else:
            model.bbox_head(levels)
    gmacs["all"] = counter.get_total_flops() / 2e9
    gmacs["heads"] = gmacs["all"] - gmacs["pyramid"] - gmacs["backbone"]
    parameters = {
        "backbone": count_parameters(model.backbone),
        "pyramid": count_parameters(model.neck),
        "all": count_parameters(model),
    }
    parameters["heads"] = parameters["all"] - parameters["pyramid"] - parameters["backbone"]
    return {"parameters": parameters, "gmacs": gmacs}


def schedule(experiment: Experiment, detector: str) -> dict[str, int]:
    """What the scale's own configuration of a detector asks for: epochs, steps and images."""
    settings = read_settings(experiment, detector)
    machine = experiment.machine
    batch = settings.train_dataloader.batch_size * machine.nodes * machine.processes
    epochs = settings.train_cfg.max_epochs
    images = experiment.detection.rehearsal.training_images
    return {
        "epochs": epochs,
        "batch": batch,
        "schedule_steps": epochs * math.ceil(images / batch),
        "schedule_images": epochs * images,
    }


# ---- the table ---------------------------------------------------------------------------------


def published_row(experiment: Experiment, found: dict[str, Any]) -> pd.Series | None:
    """What others publish of this network in this configuration file at the counted size."""
    rehearsal = experiment.detection.rehearsal
    if experiment.pairs[found["pair"]].student.arguments:
        return None
    rows = pd.read_csv(rehearsal.published)
    width, height = rehearsal.counted_size
    own = rows[
        (rows["network"] == found["network"])
        & (rows["configuration"] == experiment.detection.detectors[found["detector"]])
        & (rows["width"] == width)
        & (rows["height"] == height)
    ]
    return None if own.empty else own.iloc[0]


def check_published(found: dict[str, Any], published: pd.Series) -> None:
    """Hold a detector to the published one.

    Raises:
        UserError: parameters differ in the published digits, or FLOPs by more than 1 %.
    """
    name = f"{found['detector']} on {found['network']}"
    parameters, gmacs = found["parameters"]["all"], found["gmacs"]["all"]
    if abs(parameters - 1e6 * published["parameters_millions"]) > PARAMETERS_TOLERANCE:
        raise UserError(
            f"{name} has {parameters / 1e6:.2f} M parameters, published are "
            f"{published['parameters_millions']} M: it is not the published detector"
        )
    if abs(gmacs / published["gmacs"] - 1) > FLOPS_TOLERANCE:
        raise UserError(
            f"{name} takes {gmacs:.1f} GMAC an image, published are {published['gmacs']}: it is "
            "not the published detector"
        )


def gpu_hours(experiment: Experiment, found: dict[str, Any]) -> float | None:
    """GPU-hours of the schedule, were the detector as fast, per FLOP, as its student's training.

    The student's throughput and FLOPs are timm's published ones; None where nothing is published.
    """
    rates = pd.read_csv(experiment.networks).set_index("network")
    if found["network"] not in rates.index or experiment.pairs[found["pair"]].student.arguments:
        return None
    own = rates.loc[found["network"]]
    gmacs_per_second = own["train_images_per_second"] * own["gmacs"]
    return float(found["schedule_images"] * found["gmacs"]["all"] / gmacs_per_second / 3600)


def collect(experiment: Experiment) -> str:
    """Write rehearsal_detection.{md,csv}; return the first.

    Raises:
        UserError: a detector's parameters or FLOPs are not the published ones.
    """
    rows = []
    for pair in experiment.rehearsed_backbones():
        for detector in experiment.detection.detectors:
            found = read_run(record_path(experiment, pair, detector))
            published = published_row(experiment, found)
            if published is not None:
                check_published(found, published)
            row = {key: value for key, value in found.items() if not isinstance(value, dict | list)}
            for kind in ("parameters", "gmacs"):
                row |= {f"{kind}_{part}": found[kind][part] for part in (*PARTS, "all")}
            rows.append(
                row
                | {
                    "images": " ".join("×".join(map(str, shape[1:])) for shape in found["images"]),
                    "frozen": len(found["frozen"]),
                    "predictions": sum(found["predictions"].values()),
                    "published_parameters_millions": None
                    if published is None
                    else published["parameters_millions"],
                    "published_gmacs": None if published is None else published["gmacs"],
                    "gpu_hours": gpu_hours(experiment, found),
                }
            )
    table = pd.DataFrame(rows)
    write_text(experiment.directory / "rehearsal_detection.csv", table.to_csv(index=False))
    text = _markdown(experiment, table)
    write_text(experiment.directory / "rehearsal_detection.md", text)
    return text


def _markdown(experiment: Experiment, table: pd.DataFrame) -> str:
    def shown(value: object, form: str) -> str:
        return MISSING if pd.isna(value) else f"{value:{form}}"

    weights = pd.DataFrame(
        [
            {
                "Student": row["network"],
                "Detector": row["detector"],
                **{
                    f"{part.capitalize()} (M)": f"{row[f'parameters_{part}'] / 1e6:.2f}"
                    for part in (*PARTS, "all")
                },
                "Published (M)": shown(row["published_parameters_millions"], ".0f"),
                **{
                    f"{part.capitalize()} (GMAC)": f"{row[f'gmacs_{part}']:.1f}"
                    for part in (*PARTS, "all")
                },
                "Published (GMAC)": shown(row["published_gmacs"], ".0f"),
            }
            for _, row in table.iterrows()
        ]
    )
    runs = pd.DataFrame(
        [
            {
                "Student": row["network"],
                "Detector": row["detector"],
                "Image": row["images"],
                "Step here (s)": f"{row['step_seconds']:.1f}",
                "Peak memory here (GiB)": f"{row['peak_memory_gib']:.1f}",
                "Loss": f"{row['loss']:.3f}",
                "Frozen": row["frozen"],
                "Predictions": row["predictions"],
                "Schedule": f"{row['epochs']} epochs, {row['schedule_steps']:,} steps of "
                f"{row['batch']}",
                "GPU-hours, projected": shown(row["gpu_hours"], ",.0f"),
            }
            for _, row in table.iterrows()
        ]
    )
    first, rehearsal = table.iloc[0], experiment.detection.rehearsal
    width, height = rehearsal.counted_size
    rates = pd.read_csv(experiment.networks)
    projected = table[table["gpu_hours"].notna()]["network"]
    hardware = ", ".join(rates[rates["network"].isin(projected)]["hardware"].unique())
    return "\n".join(
        [
            f"# Rehearsal of detection, {experiment.name}",
            "",
            "Every student of Table 1 in every detector, by the code of a real run: "
            f"{first['steps']} training step(s) of {len(first['images'].split())} image(s) "
            f"(height×width as shown, before padding) on {first['threads']} thread(s) of "
            f"{first['processor']} ({first['device']}), checkpoint, test, predictions, AP. Weights "
            "are random, stochastic depth is off, and predictions of any score are kept. The loss "
            "was finite, and every parameter that is not frozen got a gradient other than zero. "
            "Memory is the process's largest resident set.",
            "",
            runs.to_markdown(index=False, disable_numparse=True),
            "",
            f"The schedule is the scale's own, on {rehearsal.training_images:,} images and "
            f"{experiment.machine.nodes * experiment.machine.processes} process(es). GPU-hours are "
            "a projection at the multiply-accumulates a second that timm's published training "
            f"throughput of the student comes to ({hardware or 'none is published'}; "
            f"{experiment.networks}): no data loading, no matching, no non-maximum suppression, "
            "and the detectors train without AMP, so expect more.",
            "",
            weights.to_markdown(index=False, disable_numparse=True),
            "",
            "GMAC: billions of multiply-accumulates of convolutions and matrix products, one "
            f"image of {width}×{height}, forward; this is what publications of detectors call "
            "FLOPs. Of a two-stage detector, the box branch has as many regions as a test passes "
            "on, and the mask branch 100. "
            f"Published: {rehearsal.published}; the rehearsal fails unless parameters agree in the "
            f"published digits and GMAC to {FLOPS_TOLERANCE:.0%} (they are published in whole "
            "billions, and what else is counted differs: norms, activations).",
            "",
        ]
    )


def main() -> None:
    parser = command.parser("benchmarks.detection.rehearse", __doc__)
    parser.add_argument("--pair")
    parser.add_argument("--detector")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--data", action="store_true", help="make the folder alone")
    parser.add_argument("--collect", action="store_true", help="write the table")
    options = parser.parse_args()
    experiment = command.experiment(options)
    if experiment.detection is None:
        raise UserError(f"scale {experiment.scale!r} has no section 'detection'")
    if options.data:
        make_folder(experiment)
        return
    if options.collect:
        print(collect(experiment))
        return
    pairs, detectors = experiment.rehearsed_backbones(), experiment.detection.detectors
    if options.pair not in pairs or options.detector not in detectors:
        raise UserError(
            f"--pair must be one of {', '.join(pairs)} and --detector one of "
            f"{', '.join(detectors)}; got {options.pair!r} and {options.detector!r}"
        )
    small = rehearsed(options.config, experiment, options.pair, options.detector, options.threads)
    choose_device(small.machine)
    torch.set_num_threads(small.machine.threads)
    found = rehearse(experiment, small, options.detector)
    print(json.dumps(found, indent=2))
    path = record_path(experiment, options.pair, options.detector)
    write_text(path, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    command.run(main)
