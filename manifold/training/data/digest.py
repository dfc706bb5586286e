"""A digest of the data that a run reads, for its record."""

import json
from hashlib import sha256

from manifold.training.data.images import Splits


def data_digest(splits: Splits) -> str:
    """SHA-256, in hexadecimal, of the images and labels of all three splits, in their order.

    It is the same on every machine and in every folder. Of images in memory every pixel counts; of
    files their paths below the data set's folder, and their sizes, but not their bytes.

    Raises:
        UserError: a file is not there; names it.
    """
    digest = sha256(json.dumps(splits.classes).encode())
    for name in ("train", "validation", "test"):
        images = getattr(splits, name)
        digest.update(f"\n{name} {len(images)}\n".encode())
        digest.update(images.labels[images.indices].astype("<i8").tobytes())
        for part in images.source.identity(images.indices):
            digest.update(part)
    return digest.hexdigest()
