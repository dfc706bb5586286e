"""Whether the check before all compute has looked at this very configuration."""

import json
from pathlib import Path

from manifold.settings import Experiment, fingerprint

FINGERPRINT = "fingerprint"


def identity_of(experiment: Experiment) -> str:
    return fingerprint(experiment.preflight_identity())


def is_checked(experiment: Experiment, record: Path) -> bool:
    """Whether preflight.json is of this configuration; a damaged one is of none."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))[FINGERPRINT] == identity_of(
            experiment
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
