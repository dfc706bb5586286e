"""COCO's average precision of dumped predictions, unrounded."""

from benchmarks.detection import requirements  # noqa: F401 (before pycocotools)

# isort: split
import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# pycocotools' ``stats``, by place.
STATISTICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def average_precision(
    annotations: Path, predictions: Path, kind: str, class_seed: int | None = None
) -> dict[str, float | None]:
    """Return AP, AP50, AP75 and AP by size, in percent.

    mmdet's CocoMetric runs the same evaluation, and rounds to three digits; differences between
    methods are smaller than that.

    Args:
        annotations: COCO JSON of the ground truth.
        predictions: COCO JSON of the results, as CocoMetric writes it.
        kind: "bbox" or "segm".
        class_seed: give every prediction a class drawn at random: the AP of knowing where alone.

    Returns:
        None in the place of an AP over sizes of which there are no objects.

    Source: pycocotools.cocoeval, cocodataset/cocoapi.
    """
    found = json.loads(predictions.read_text(encoding="utf-8"))
    if not found:  # loadRes refuses it
        return {name: 0.0 for name in STATISTICS}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        if class_seed is not None:
            drawn = np.random.default_rng(class_seed).choice(truth.getCatIds(), len(found))
            for entry, category in zip(found, drawn, strict=True):
                entry["category_id"] = int(category)
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.asarray(evaluation.stats[: len(STATISTICS)])
    return {
        name: None if value < 0 else 100 * float(value)
        for name, value in zip(STATISTICS, values, strict=True)
    }
