"""The figures of relation maps: the method on a batch, maps before and after training, dots."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from benchmarks.evidence.statistics import mean_interval
from benchmarks.evidence.style import (
    GREY,
    STYLE,
    WIDTH,
    colour_of,
    draw_row,
    leave_out_far_rows,
    rule_out,
    write_caption,
)
from benchmarks.evidence.words import in_epochs, interval_columns, readable_interval
from benchmarks.maps import FILES, TEACHER, Maps
from manifold.settings import UNTRAINED

# Even to the eye, also of the colour-blind and in grey; and one with white at zero.
COSINES, DIFFERENCES = "cividis", "PuOr"
LEFT_OUT = "#E8E8E8"
DIFFERENCE = "Student − teacher"  # the third line of the batch
PANELS = {  # of the dots: title, whether its axis is logarithmic
    "intra": ("Intra-image\nmap distance", True),
    "kl": ("KL(teacher ‖ student)\n(nats)", True),
    "agreement": ("Agreement with\nthe teacher (%)", False),
    "agreement_on_errors": ("Agreement where\nit is wrong (%)", False),
}


def draw(rows: pd.DataFrame, seeds: pd.DataFrame, baseline: str, caption: str) -> Figure:
    """Distances and agreement of each student, a dot a seed.

    Args:
        rows, seeds: as in maps.csv and maps_seeds.csv.
        baseline: the method whose means are marked.
    """
    shown = {key: panel for key, panel in PANELS.items() if f"{key}_mean" in rows}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1,
            len(shown),
            figsize=(WIDTH, 0.27 * len(rows) + 1.5),
            sharey=True,
            layout="constrained",
        )
        for axis, (key, (title, is_logarithmic)) in zip(axes, shown.items(), strict=True):
            if is_logarithmic:
                axis.set_xscale("log")
            for position, row in rows.iterrows():
                colour = colour_of(row["method"], [UNTRAINED])
                own = seeds.loc[seeds["method"] == row["method"], key]
                draw_row(axis, position, own, row, key, colour)
            (mark,) = rows.loc[rows["method"] == baseline, f"{key}_mean"]
            axis.axvline(mark, color=GREY, linewidth=0.8, linestyle=":")
            if not is_logarithmic:
                leave_out_far_rows(axis, rows, key, shown=mark)
            axis.set_xlabel(title, fontsize=8)
            axis.tick_params(axis="y", length=0)
            axis.tick_params(axis="x", which="both", labelsize=7.5)
            rule_out(axis, "x")
        axes[0].set_yticks(range(len(rows)), rows["title"])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        write_caption(figure, f"{caption} Dotted: {baseline}.")
    return figure


# ---- the method on a batch -------------------------------------------------------------------


@dataclass
class Batch:
    """Full relation maps of one batch, and what the method cuts out of them.

    Attributes:
        images: B, of the batch.
        rows: (K,) the random tokens.
    """

    images: int
    rows: np.ndarray

    def parts(self, full: np.ndarray) -> dict[str, np.ndarray]:
        """The full map (B·N, B·N), and the three decoupled parts.

        ``intra`` keeps the (N, N) maps of single images on the diagonal and leaves out all else
        (NaN); ``inter`` has the tokens sorted by position, and keeps the (B, B) maps of single
        positions; ``random`` is the (K, K) map of the random tokens.
        """
        tokens = len(full) // self.images
        by_position = np.arange(len(full)).reshape(self.images, tokens).T.ravel()
        return {
            "full": full,
            "intra": _diagonal(full, tokens),
            "inter": _diagonal(full[np.ix_(by_position, by_position)], self.images),
            "random": full[np.ix_(self.rows, self.rows)],
        }


def _diagonal(full: np.ndarray, side: int) -> np.ndarray:
    """The square blocks on the diagonal; NaN elsewhere."""
    block = np.arange(len(full)) // side
    return np.where(block[:, None] == block[None, :], full, np.nan)


def draw_batch(study: Maps) -> Figure:
    """The full map of one batch, of teacher and student, and the parts that are compared of it."""
    maps, seed = study.settings, study.seeds[0]
    arrays = load_file(study.directory(seed) / FILES[0])
    method = study.drawn[-1]
    title = study.experiment.method_definitions[method].title
    own, other = (arrays[f"{name}.batch"] for name in (method, TEACHER))
    images = arrays["images"][: maps.shown_batch]
    batch, tokens = Batch(len(images), arrays["rows"]), len(own) // len(images)
    block, teacher_block = _blocks(study)
    lines = {
        f"Teacher,\nblock {teacher_block}": batch.parts(other),
        f"Student, block {block}\n({title})": batch.parts(own),
        DIFFERENCE: batch.parts(own - other),
    }
    columns = {
        "full": f"All B·N = {len(own)} tokens",
        "intra": f"Intra-image: B = {len(images)} maps\nof N = {tokens} tokens",
        "inter": f"Inter-image: N = {tokens} maps\nof B = {len(images)} tokens",
        "random": f"Random: K = {len(batch.rows)} tokens",
    }
    lowest, largest = min(own.min(), other.min()), np.abs(own - other).max()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            4,
            len(columns),
            figsize=(WIDTH, 6.7),
            height_ratios=[1 / len(images), 1, 1, 1],
            layout="constrained",
        )
        strip = np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1)
        _picture(axes[0, 0], strip)
        for axis in axes[0, 1:]:
            axis.set_axis_off()
        for row, (name, parts) in zip(axes[1:], lines.items(), strict=True):
            is_difference = name == DIFFERENCE
            ends = (-largest, largest) if is_difference else (lowest, 1)
            colours = DIFFERENCES if is_difference else COSINES
            for axis, part in zip(row, columns, strict=True):
                drawn = _map(axis, parts[part], *ends, colours)
                if is_difference:
                    mean = np.nanmean(parts[part] ** 2)
                    axis.set_xlabel(f"mean square {mean:.4f}", fontsize=7.5)
            row[0].set_ylabel(name, fontsize=8)
            bar = figure.colorbar(drawn, ax=row, shrink=0.8, pad=0.01)
            bar.ax.tick_params(labelsize=7)
        for axis, title in zip(axes[1], columns.values(), strict=True):
            axis.set_title(title, fontsize=8)
        for line in range(1, len(images)):
            for axis in axes[1:, 0]:
                for rule in (axis.axhline, axis.axvline):
                    rule(line * tokens - 0.5, color="white", linewidth=0.4)
        words = (
            f"{len(images)} {study.experiment.evaluation_split} images as one batch, seed {seed}: "
            "the cosines of each two tokens, and what the manifold losses compare of them. "
            "Inter-image maps: the tokens sorted by position. Light grey is left out. Mean square: "
            f"of this batch's differences, unweighted. {_source(study)}"
        )
        write_caption(figure, words)
    return figure


# ---- before and after ------------------------------------------------------------------------


def draw_before_after(study: Maps, layers: pd.DataFrame) -> Figure:
    """The intra-image maps of single images: of the teacher, and of students before and after.

    Args:
        layers: as in maps_layers.csv.
    """
    seed, confidence = study.seeds[0], study.experiment.statistics.confidence
    arrays = load_file(study.directory(seed) / FILES[0])
    definitions, (block, teacher_block) = study.experiment.method_definitions, _blocks(study)
    columns = {
        TEACHER: f"Teacher,\nblock {teacher_block}",
        UNTRAINED: f"Student, block {block},\nbefore training",
        **{name: f"{definitions[name].title}" for name in study.drawn},
    }
    found = {name: arrays[f"{name}.images"] for name in columns}
    images = arrays["images"][: len(found[TEACHER])]
    lowest = min(part.min() for part in found.values())
    width = WIDTH / 7 * (len(columns) + 1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(images),
            len(columns) + 1,
            figsize=(width, width / (len(columns) + 1) * len(images) + 1.4),
            squeeze=False,
            layout="constrained",
        )
        for place, (row, image) in enumerate(zip(axes, images, strict=True)):
            _picture(row[0], image.transpose(1, 2, 0))
            for axis, (name, own) in zip(row[1:], found.items(), strict=True):
                drawn = _map(axis, own[place], lowest, 1, COSINES)
                if name != TEACHER:
                    mean = np.mean((own[place] - found[TEACHER][place]) ** 2)
                    axis.set_xlabel(f"{mean:.4f}", fontsize=7.5, labelpad=1)
        for axis, (name, title) in zip(axes[0, 1:], columns.items(), strict=True):
            axis.set_title(f"{title}\n{_distance(study, layers, name)}", fontsize=7.5)
        bar = figure.colorbar(drawn, ax=axes[:, -1], shrink=0.8)
        bar.ax.tick_params(labelsize=7)
        words = (
            f"Intra-image relation maps of the first {len(images)} images that were drawn, seed "
            f"{seed}; below each the mean squared difference to the teacher's map of that image, "
            "above each column its mean over all images that were measured, of these blocks, with "
            f"the {100 * confidence:g} % t interval over n = {len(study.seeds)} seeds. "
            f"{_source(study)}"
        )
        write_caption(figure, words)
    return figure


def _distance(study: Maps, layers: pd.DataFrame, name: str) -> str:
    """The intra-image distance of the figure's blocks, over all seeds."""
    if name == TEACHER:
        return ""
    block, teacher_block = _blocks(study)
    is_own = (layers["method"] == name) & (layers["student_block"] == block)
    values = layers.loc[is_own & (layers["teacher_block"] == teacher_block), "intra"]
    confidence = study.experiment.statistics.confidence
    row = pd.Series(interval_columns("intra", mean_interval(list(values), confidence)))
    return readable_interval(row, "intra", digits=4).replace(" [", "\n[")


def _source(study: Maps) -> str:
    """What a figure of single images says of the students that it shows."""
    experiment, maps = study.experiment, study.settings
    return (
        f"Scale {experiment.name}: {experiment.description}; pair {maps.pair}, recipe "
        f"{maps.recipe}, {in_epochs(maps.epochs)}. The images follow from no result."
    )


# ---- pieces ----------------------------------------------------------------------------------


def _blocks(study: Maps) -> tuple[int, int]:
    """The student's and the teacher's block that the figures show."""
    maps = study.settings
    layers = study.experiment.pairs[maps.pair].layers[maps.layers]
    return layers.student[maps.shown_layers], layers.teacher[maps.shown_layers]


def _map(axis: Axes, cosines: np.ndarray, low: float, high: float, colours: str):
    axis.set_facecolor(LEFT_OUT)  # seen where a map is NaN
    drawn = axis.imshow(cosines, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(visible=True, linewidth=0.4, color=GREY)
    return drawn


def _picture(axis: Axes, pixels: np.ndarray) -> None:
    """An image (H, W, C) from 0 to 1; grey where C is 1."""
    axis.imshow(
        pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1
    )
    axis.set_axis_off()
