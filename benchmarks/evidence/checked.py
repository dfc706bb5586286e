"""Whether the check before all compute has looked at this very configuration and data."""

import json
from pathlib import Path

from manifold.settings import Experiment, fingerprint
from manifold.settings.data_files import files_digest

FINGERPRINT = "fingerprint"


def identity_of(experiment: Experiment) -> str:
    files = files_digest(experiment.data, experiment.results)
    return fingerprint({**experiment.preflight_identity(), "files": files})


def is_checked(experiment: Experiment, record: Path) -> bool:
    """Whether preflight.json is of this configuration and data; a damaged one is of none."""
    try:
        return json.loads(record.read_text())[FINGERPRINT] == identity_of(experiment)
    except (OSError, ValueError, KeyError, TypeError):
        return False
