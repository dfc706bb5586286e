"""What others publish of detectors, and what is held to it."""

from typing import Any

import pandas as pd

from benchmarks.detection.rehearsal import DetectionRehearsal
from manifold.errors import UserError
from manifold.settings import find

PARAMETERS_TOLERANCE = 0.5e6  # published are whole millions
# Published FLOPs are whole billions; counted by mmdet's own tool, which counts modules with their
# norms and activations, others found 0.4 % less (Swin-Transformer-Object-Detection, issue 34).
FLOPS_TOLERANCE = 0.01


def published_row(study: DetectionRehearsal, found: dict[str, Any]) -> pd.Series | None:
    """What others publish of this network in this configuration file at the counted size."""
    if study.experiment.pairs[found["pair"]].student.arguments:
        return None
    rows = pd.read_csv(find(study.settings.published))
    width, height = study.settings.counted_size
    own = rows[
        (rows["network"] == found["network"])
        & (rows["configuration"] == study.detection.settings.detectors[found["detector"]])
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
