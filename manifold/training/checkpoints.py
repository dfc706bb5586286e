"""The checkpoints of trainings that were cut."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from manifold.errors import UserError


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what ``Training.save`` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        if broken := zipfile.ZipFile(path).testzip():  # torch.load does not look at checksums
            raise ValueError(f"the checksum of {broken} is wrong")
        state = torch.load(path, map_location=device, weights_only=True)
        if not {"fingerprints", "source_hashes"} <= state.keys():
            raise ValueError("it does not say what it is of")
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"{path} is damaged: not a checkpoint of this project ({error}); delete it to start "
            "this cohort again"
        ) from error
    return state
