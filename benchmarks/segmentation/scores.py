"""Mean intersection over union, of one confusion matrix over a whole test set."""

from typing import Any

import numpy as np

from benchmarks.segmentation.settings import IGNORED


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes) of the pixels of each class (rows) by what is predicted (columns).

    Args:
        truth: class indices, or ``IGNORED`` where a pixel counts for nothing.
        predicted: class indices, of the same shape.
    """
    counted = truth != IGNORED
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def scores(matrix: np.ndarray) -> dict[str, Any]:
    """mIoU and pixel accuracy in percent, and the IoU of each class, None where it is absent.

    The IoU of a class is its hits over the pixels that are of it or taken for it. A class of which
    there are neither is absent, and left out of the mean; one that is predicted and never there
    counts with 0.

    Args:
        matrix: as ``confusion`` counts it, with one pixel at least.
    """
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    present = union > 0
    iou = 100 * hits[present] / union[present]
    values = iter(iou.tolist())
    return {
        "miou": float(iou.mean()),
        "pixel_accuracy": float(100 * hits.sum() / matrix.sum()),
        "iou": [next(values) if there else None for there in present],
        "pixels": matrix.sum(axis=1).tolist(),
    }
