"""Predictions drawn on a few test images, next to the truth, backbone by backbone."""

import io
import json
import zipfile
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from benchmarks.evidence.style import STYLE
from benchmarks.segmentation import FINE_TUNED, SEGMENTER_FILES, Segmentation
from benchmarks.segmentation.data import open_split
from benchmarks.segmentation.masks import lookup
from benchmarks.segmentation.settings import IGNORED

# Paul Tol's muted scheme, distinct for the colour-blind, between a pale grey and black.
MUTED = (
    *("#DDDDDD", "#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99"),
    *("#999933", "#AA4499", "#000000"),
)
MANY = "cividis"  # of more classes, which no scheme tells apart: even steps of one that is safe too
NO_CLASS = "#FFFFFF"
MOST_IN_LEGEND = 20


def colours(classes: int) -> list[str] | np.ndarray:
    """A colour of each class, safe for the colour-blind."""
    if classes <= len(MUTED):
        return list(MUTED[:classes])
    return matplotlib.colormaps[MANY](np.linspace(0, 1, classes))


def painted(labels: np.ndarray, palette: list) -> np.ndarray:
    """(H, W, 3) colours of class indices (H, W); white where there is no class."""
    table = np.ones((256, 3)) * to_rgb(NO_CLASS)
    table[: len(palette)] = [to_rgb(colour) for colour in palette]
    return table[labels]


def draw_pictures(study: Segmentation) -> Figure:
    """The first test images, a row each: image, truth, and the first seed's fine-tuned predictions.

    The images are the first of the data, which no result has a say in.
    """
    found = json.loads(study.found.read_text(encoding="utf-8"))
    names, seed = found["classes"], study.seeds[0]
    examples = open_split(study, found, study.evaluated)
    positions = range(min(study.settings.pictures, len(examples)))
    palette, columns = colours(len(names)), ["Image", "Truth", *study.backbones.values()]
    table = lookup(len(names), study.settings.data.ignore_zero)
    shown: set[int] = set()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(positions),
            len(columns),
            figsize=(1.2 * len(columns), 1.2 * len(positions) + 0.9),
            squeeze=False,
            layout="constrained",
        )
        for axis, title in zip(axes[0], columns, strict=True):
            axis.set_title(title, fontsize=6)
        for row, position in zip(axes, positions, strict=True):
            truth = examples.classes(position)
            masks = [truth]
            for method in study.backbones:
                archive = study.directory(FINE_TUNED, method, seed) / SEGMENTER_FILES[1]
                masks.append(_predicted(archive, examples.examples[position].name, table))
            row[0].imshow(np.asarray(examples.image(position)), cmap="gray", vmin=0, vmax=255)
            for axis, mask in zip(row[1:], masks, strict=True):
                axis.imshow(painted(mask, palette), interpolation="nearest")
                shown |= set(np.unique(mask).tolist()) - {IGNORED}
            for axis in row:
                axis.set_axis_off()
        handles = [Patch(color=palette[number], label=names[number]) for number in sorted(shown)]
        if len(handles) <= MOST_IN_LEGEND:
            figure.legend(
                handles=handles, loc="outside lower left", ncols=min(6, len(handles)), fontsize=6
            )
        figure.suptitle(
            f"Fine-tuned, seed {seed}, on the first {study.evaluated} images. White: no class.",
            fontsize=6.5,
            x=0.01,
            ha="left",
        )
    return figure


def _predicted(archive: Path, name: str, table: np.ndarray) -> np.ndarray:
    """The classes that were predicted for an image."""
    with zipfile.ZipFile(archive) as file:
        values = np.asarray(Image.open(io.BytesIO(file.read(name))))
    return table[values].astype(np.uint8)
