"""A digest of the data that a run reads, for its record."""

import json
from hashlib import sha256

from manifold.settings import Experiment
from manifold.settings.data_files import files_digest
from manifold.training.data.images import Splits


def data_digest(experiment: Experiment, splits: Splits) -> str:
    """What tells the data of a run from others, the same on every machine and in every folder.

    Of files that may change it is over their paths, sizes and, where that is quick, their bytes
    (``manifold.settings.data_files``); of images in memory over the splits.
    """
    return files_digest(experiment.data, experiment.results) or digest_of_splits(splits)


def digest_of_splits(splits: Splits) -> str:
    """SHA-256, in hexadecimal, of images in memory and their labels, split by split, in order."""
    digest = sha256(json.dumps(splits.classes).encode())
    for name in ("train", "validation", "test"):
        images = getattr(splits, name)
        digest.update(f"\n{name} {len(images)}\n".encode())
        digest.update(images.labels[images.indices].astype("<i8").tobytes())
        for part in images.source.identity(images.indices):
            digest.update(part)
    return digest.hexdigest()
