"""Predict the test images of a segmenter, each at its mask's own size, and score them."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.segmentation.cells import SegmenterCell
from benchmarks.segmentation.data import Examples, fit
from benchmarks.segmentation.networks import last_tokens
from benchmarks.segmentation.scores import confusion, scores
from manifold.errors import UserError

UNDATED = (1980, 1, 1, 0, 0, 0)  # of files in an archive: the same predictions give the same bytes


def batches_of(
    cell: SegmenterCell, examples: Examples
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The positions, images and fitted classes of every example, in order, without augmentation."""
    machine = cell.experiment.machine
    size = min(machine.evaluation_batch_size, cell.study.recipe_of(cell.protocol).batch_size)
    keys = [(position, None) for position in range(len(examples))]
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    loader = DataLoader(examples, batch_sampler=batches, num_workers=machine.workers)
    for batch, (images, classes) in zip(batches, loader, strict=True):
        yield [position for position, _ in batch], images, classes


@torch.no_grad()
def predictions(
    cell: SegmenterCell, frozen: nn.Module | None, trained: nn.Module, examples: Examples
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The position, the mask and the predicted classes of every example, at its mask's own size.

    Logits, and not classes, are enlarged or shrunk to that size, bilinearly.
    """
    device = next(trained.parameters()).device
    trained.eval()
    for positions, images, _ in batches_of(cell, examples):
        images = images.to(device)
        logits = trained(images if frozen is None else last_tokens(frozen, images))
        for position, own in zip(positions, logits, strict=True):
            truth = examples.classes(position)
            width, height = fit(truth.shape[::-1], examples.size)
            own = own[None, :, :height, :width]
            if truth.shape != (height, width):
                own = F.interpolate(own, size=truth.shape, mode="bilinear", align_corners=False)
            yield position, truth, own[0].argmax(dim=0).byte().cpu().numpy()


def measure(
    cell: SegmenterCell,
    frozen: nn.Module | None,
    trained: nn.Module,
    examples: Examples,
    classes: int,
    archive: Path,
) -> dict[str, Any]:
    """Predict the test images, write the predictions, and return their scores.

    Args:
        archive: of PNG masks with the names and the indices of the data's masks.

    Raises:
        UserError: no pixel of the masks has a class.
    """
    matrix = np.zeros((classes, classes), dtype=np.int64)
    own_indices = np.array([int(np.flatnonzero(examples.table == c)[0]) for c in range(classes)])
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for position, truth, predicted in predictions(cell, frozen, trained, examples):
            matrix += confusion(truth, predicted, classes)
            content = io.BytesIO()
            Image.fromarray(own_indices[predicted].astype(np.uint8)).save(content, "PNG")
            entry = zipfile.ZipInfo(examples.examples[position].name, UNDATED)
            file.writestr(entry, content.getvalue())
    if not matrix.sum():
        raise UserError(
            f"segmentation: no mask of the {cell.study.evaluated} images has a pixel of a class: "
            "there is nothing to measure; correct these masks, or segmentation.data.ignore_zero, "
            "and let snakemake prepare the data anew"
        )
    return scores(matrix)
