"""Batches whose every draw follows from the seed: order, augmentation and mixing.

A batch is drawn in shards, the parts that the reference code gives to its GPUs. Order, augmentation
and mixing follow from the seed and a shard's number, so any number of processes and workers reads
the same batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import torch
from PIL import Image
from timm.data import Mixup, create_transform
from timm.data.loader import PrefetchLoader
from timm.data.mixup import mixup_target
from torch import Tensor
from torch.utils.data import DataLoader

from manifold.errors import UserError, told
from manifold.ranks import ALONE, Ranks
from manifold.seeds import derive, reseed
from manifold.settings import Data, Recipe, TeacherInput
from manifold.training.data.images import Images


def train_transform(data: Data, recipe: Recipe) -> Callable[[Image.Image], Tensor]:
    """timm's training transform for the recipe.

    Raises:
        UserError: timm refuses it.
    """
    augmentation = recipe.augmentation
    try:
        return create_transform(
            data.image_size,
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=augmentation.horizontal_flip,
            color_jitter=augmentation.color_jitter or None,
            auto_augment=augmentation.auto_augment,
            re_prob=augmentation.random_erasing,
            re_mode="pixel",
            interpolation=data.interpolation,
            mean=tuple(data.mean),
            std=tuple(data.std),
        )
    except Exception as error:  # timm asserts, and reads its policies' words in many ways
        raise UserError(
            f"the recipe's augmentation is refused by timm: {told(error)}; auto_augment "
            f"{augmentation.auto_augment!r} must be null or a policy like "
            "'rand-m9-mstd0.5-inc1', 'augmix-m3-w3' or 'original'"
        ) from error


def evaluation_transform(
    data: Data, seen_by: TeacherInput | None = None
) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform: resize by the shorter side, then the centre crop.

    Args:
        seen_by: crop, interpolation and normalisation of weights that were made with others.
    """
    source = seen_by or data
    return create_transform(
        data.image_size,
        crop_pct=source.crop,
        interpolation=source.interpolation,
        mean=tuple(source.mean),
        std=tuple(source.std),
    )


@dataclass
class TrainingBatches:
    """One process's part of an epoch's batches, as (position, augmentation seed) keys.

    With ``repeats`` copies of each image standing in a row, batch b is the entries b·B to (b+1)·B
    of that list, and shard s of it every ``shards``-th entry from the s-th on: what the reference
    code's ``RASampler`` deals to its s-th GPU (``DistributedSampler``, without repeats). A last
    short batch is left out; an epoch has as many batches as without repeats. Process r of W reads
    the r-th W-th of the shards, one after another.

    An epoch of more ``images`` than the split has goes through it several times, each time in an
    order of its own, without a break: where a batch spans two, it may hold an image of both.

    Order and augmentation follow from (seed, epoch, image, copy) alone, so an epoch can be entered
    at any batch and read by any number of processes and workers.

    Attributes:
        length: of the split.
        images: of an epoch; by default those of the split, once.
    """

    length: int
    batch_size: int
    seed: int
    epoch: int
    first_batch: int = 0
    shards: int = 1
    repeats: int = 1
    ranks: Ranks = ALONE
    images: int | None = None

    @property
    def batches(self) -> int:
        """Of the whole epoch."""
        return (self.images or self.length) // self.batch_size

    def __len__(self) -> int:
        return self.batches - self.first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in range(self.first_batch, self.batches):
            yield [
                self._key(entry)
                for shard in own_shards(self.shards, self.ranks)
                for entry in self._entries(batch, shard)
            ]

    @cached_property
    def _order(self) -> list[int]:
        """The positions of an epoch's images, pass after pass."""
        order: list[int] = []
        for number in range(ceil((self.images or self.length) / self.length)):
            again = (number,) if number else ()
            seed = derive(self.seed, "order", self.epoch, *again)
            generator = torch.Generator().manual_seed(seed)
            order += torch.randperm(self.length, generator=generator).tolist()
        return order

    def duplicate_share(self, batch: int, relational_batch: str) -> float:
        """The share of entries whose image stands in the same shard, or batch, already."""
        if relational_batch == "batch":
            groups = [range(batch * self.batch_size, (batch + 1) * self.batch_size)]
        else:
            groups = [self._entries(batch, shard) for shard in range(self.shards)]
        order = self._order
        distinct = sum(len({order[e // self.repeats] for e in entries}) for entries in groups)
        return 1 - distinct / self.batch_size

    def _entries(self, batch: int, shard: int) -> range:
        return range(batch * self.batch_size + shard, (batch + 1) * self.batch_size, self.shards)

    def _key(self, entry: int) -> tuple[int, int]:
        index, copy = divmod(entry, self.repeats)
        position = self._order[index]
        copy += self.repeats * (index // self.length)  # of a later pass, beyond all of the first
        return position, derive(self.seed, "augmentation", self.epoch, position, copy)


def own_shards(shards: int, ranks: Ranks) -> range:
    """The numbers of a process's shards: a run of ``shards`` / W of them."""
    own = shards // ranks.count
    return range(ranks.rank * own, (ranks.rank + 1) * own)


def prefetched(loader: DataLoader, device: torch.device, channels: int) -> PrefetchLoader:
    """timm's prefetcher: the next batch is copied to the device while this one is used.

    The workers normalise and erase (each image's draws are its own), so nothing is left to do to
    the values on the device.
    """
    return PrefetchLoader(
        loader, mean=(0.0,) * channels, std=(1 / 255,) * channels, channels=channels, device=device
    )


def evaluation_loader(
    images: Images,
    data: Data,
    batch_size: int,
    workers: int,
    *,
    device: torch.device,
    ranks: Ranks = ALONE,
    seen_by: TeacherInput | None = None,
) -> PrefetchLoader:
    """Every image once, over all processes, without padding."""
    keys = [(position, None) for position in range(ranks.rank, len(images), ranks.count)]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    loader = DataLoader(
        images.transformed(evaluation_transform(data, seen_by)),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    return prefetched(loader, device, data.channels)


class Mixer:
    """Turns class indices into soft targets: timm's mixup and cutmix, or smoothing alone.

    Each shard is mixed within itself, with draws of its own, as the reference's GPUs do.
    """

    def __init__(self, recipe: Recipe, classes: int, seed: int):
        self.classes = classes
        self.smoothing = recipe.label_smoothing
        self.seed = seed
        self.mixup = None
        if recipe.mixing:
            self.mixup = Mixup(
                mixup_alpha=recipe.mixing.mixup,
                cutmix_alpha=recipe.mixing.cutmix,
                prob=recipe.mixing.probability,
                switch_prob=recipe.mixing.switch_probability,
                mode=recipe.mixing.mode,
                label_smoothing=recipe.label_smoothing,
                num_classes=classes,
            )

    def __call__(
        self, images: Tensor, labels: Tensor, step: int, shards: Sequence[int] = (0,)
    ) -> tuple[Tensor, Tensor]:
        """Return mixed images (B, C, H, W) and target probabilities (B, classes).

        Args:
            shards: the numbers of the shards that the images are, one after another.
        """
        if not self.mixup:
            return images, mixup_target(labels, self.classes, lam=1.0, smoothing=self.smoothing)
        targets = []
        parts = zip(shards, images.chunk(len(shards)), labels.chunk(len(shards)), strict=True)
        for shard, own_images, own_labels in parts:
            reseed(derive(self.seed, "mixup", step, shard))
            targets.append(self.mixup(own_images, own_labels)[1])  # mixes the images in place
        return images, torch.cat(targets)
