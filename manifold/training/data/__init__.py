"""Data sets, their three splits, and batches whose every draw follows from the seed."""

from manifold.training.data.batches import (
    Mixer,
    TrainingBatches,
    evaluation_loader,
    evaluation_transform,
    own_shards,
    prefetched,
    train_transform,
)
from manifold.training.data.digest import data_digest
from manifold.training.data.images import Images, Splits
from manifold.training.data.splits import load_splits, verify, with_validation

__all__ = [
    "Images",
    "Mixer",
    "Splits",
    "TrainingBatches",
    "data_digest",
    "evaluation_loader",
    "evaluation_transform",
    "load_splits",
    "own_shards",
    "prefetched",
    "train_transform",
    "verify",
    "with_validation",
]
