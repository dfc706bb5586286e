"""Detections drawn on a few test images, next to the ground truth, backbone by backbone."""

from benchmarks.detection import requirements  # noqa: F401 (before pycocotools)

# isort: split
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pycocotools import mask as rle

from benchmarks.detection import Detection
from benchmarks.detection.data import annotation_file, image_folder, title_of
from benchmarks.evidence.style import BLUE, ORANGE, STYLE
from manifold.image_files import mode_of, read_image

LEAST_SCORE = 0.4  # of a detection that is drawn: below it boxes hide each other
OPACITY = 0.35


def draw_pictures(study: Detection) -> Figure:
    """The first test images, a row each: ground truth, then the detections of one seed.

    The first detector of the scale is drawn, with its masks where it has any; the seed is the first
    whose predictions are here, since records hold none, and the images are the first ones of the
    test annotations: no result has a say in either. With records alone the truth stands alone.
    """
    experiment, detection = study.experiment, study.settings
    detector, seed = next(iter(detection.detectors)), pictured_seed(study)
    truth = json.loads(annotation_file(experiment, study.evaluated).read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in truth["categories"]}
    images = truth["images"][: detection.pictures]
    columns = {"Ground truth": truth["annotations"]}
    for method in study.backbones if seed is not None else []:
        title = title_of(experiment, method)
        directory = study.directory(detector, method, seed)
        columns[title] = [
            found for found in _detections(directory) if found["score"] >= LEAST_SCORE
        ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(images),
            len(columns),
            figsize=(1.75 * len(columns), 1.75 * len(images) + 0.7),
            squeeze=False,
            layout="constrained",
        )
        for row, image in zip(axes, images, strict=True):
            path = image_folder(experiment, study.evaluated) / image["file_name"]
            pixels = np.asarray(read_image(path, mode_of(detection.data.channels)))
            for axis, (title, found) in zip(row, columns.items(), strict=True):
                own = [entry for entry in found if entry["image_id"] == image["id"]]
                _draw(axis, pixels, own, names)
                if axis in axes[0]:
                    axis.set_title(title, fontsize=7)
        figure.supxlabel(
            f"The first {study.evaluated} images; no detections are here, since records hold none."
            if seed is None
            else f"{detector}, seed {seed}: detections of a score of at least {LEAST_SCORE:g}, on "
            f"the first {study.evaluated} images.",
            fontsize=6.5,
            x=0.01,
            ha="left",
        )
    return figure


def pictured_seed(study: Detection) -> int | None:
    """The first seed of which all predictions of the first detector are here."""
    detector = next(iter(study.settings.detectors))

    def is_here(seed: int) -> bool:
        wildcards = [{"detector": detector, "method": m, "seed": seed} for m in study.backbones]
        return all(study.outputs(each)[-1].is_file() for each in wildcards)

    return next(filter(is_here, study.seeds), None)


def _detections(directory: Path) -> list[dict]:
    """A detector's predictions: those of the masks, which hold boxes too, where it has any."""
    path = directory / "predictions.segm.json"
    if not path.is_file():
        path = directory / "predictions.bbox.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _draw(axis: Axes, pixels: np.ndarray, entries: list[dict], names: dict[int, str]) -> None:
    """An image with the boxes, masks and classes of annotations, or of detections."""
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    for entry in entries:
        colour = ORANGE if "score" in entry else BLUE
        x, y, width, height = entry["bbox"]
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, dict):
            shown = np.zeros((*pixels.shape[:2], 4))
            inside = rle.decode(segmentation).astype(bool)
            shown[inside] = [*to_rgb(colour), OPACITY]
            axis.imshow(shown, interpolation="nearest")
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1))
        words = names[entry["category_id"]]
        if "score" in entry:
            words += f" {100 * entry['score']:.0f}"
        axis.text(
            x,
            y,
            words,
            fontsize=4.5,
            color="white",
            va="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.4},
        )
    axis.set_axis_off()
