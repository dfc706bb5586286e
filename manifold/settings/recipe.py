"""The settings of a recipe: all that shapes the weights of every method alike."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from manifold.errors import UserError
from manifold.settings.section import (
    MOST,
    AspectRange,
    Count,
    NotNegative,
    Positive,
    PositiveShare,
    Rate,
    Section,
    Share,
    ShareRange,
)

POLICY_PART = re.compile(r"([a-z]+)(\d+(?:\.\d+)?)")
POLICY_RANGES = {
    "n": (1, 100, "transforms of an image"),
    "w": (1, 100, "chains of a mix"),
    "d": (1, 100, "transforms of a chain"),
    "m": (0, 30, "magnitude"),
    "mstd": (0, 100, "its deviation"),
    "mmax": (0, 30, "its limit"),
    "p": (0, 1, "probability"),
    "a": (0.01, 100, "alpha of a mix"),
}


class Optimizer(Section):
    """A timm optimizer; parameters of one dimension are never decayed."""

    name: str
    """timm's name."""
    learning_rate: Annotated[float, Field(gt=0, le=1000)]
    """Peak rate of the batch size that stands above; nothing rescales it."""
    weight_decay: Annotated[float, Field(ge=0, le=100)]
    """Of all parameters with two dimensions or more, position and class tokens excepted."""
    epsilon: PositiveShare | None
    """null, as betas: of an optimizer that has none."""
    betas: Annotated[list[Rate], Field(min_length=2, max_length=3)] | None
    """Decay rates of the moments."""
    clip_norm: Annotated[float, Field(ge=1e-6, le=MOST)] | None
    """Largest norm of the gradient; null: not clipped."""


class Schedule(Section):
    """A timm schedule of the learning rate."""

    name: Literal["cosine", "constant"]
    """timm's name."""
    warmup_epochs: NotNegative
    """Epochs of linear warm-up; may be a fraction."""
    warmup_learning_rate: NotNegative
    """Where the warm-up starts."""
    minimum_learning_rate: NotNegative
    """Where the schedule ends."""
    per: Literal["step", "epoch"]
    """How often the rate moves."""
    lags_one_epoch: bool
    """An epoch runs at the rate of the one before, as in the reference code."""

    @model_validator(mode="after")
    def _lag_is_of_epochs(self) -> Self:
        if self.lags_one_epoch and self.per != "epoch":
            raise UserError("lags_one_epoch needs per: epoch")
        return self


class Augmentation(Section):
    """timm's training transform."""

    scale: ShareRange
    """Smallest and largest share of the image's area that a crop takes."""
    ratio: AspectRange
    """Smallest and largest aspect of a crop."""
    horizontal_flip: Share
    """Probability of a flip."""
    color_jitter: Annotated[float, Field(ge=0, le=10)]
    """Strength; 0: none."""
    auto_augment: str | None
    """timm's description of a policy, for instance rand-m9-mstd0.5-inc1."""
    random_erasing: Share
    """Probability that a rectangle is erased."""

    @model_validator(mode="after")
    def _policy_is_read_whole(self) -> Self:
        """timm passes by the parts of a policy that have no number, and takes any number."""
        policy, *parts = (self.auto_augment or "").split("-")
        for part in parts:
            found = POLICY_PART.fullmatch(part)
            is_choice = policy == "rand" and part.startswith("t")  # of transforms, by their name
            if not (found or is_choice):
                raise UserError(
                    f"auto_augment {self.auto_augment!r}: timm passes {part!r} by; each part after "
                    "the policy's name is a key and a number, as in rand-m9-mstd0.5-inc1"
                )
            low, high, meaning = POLICY_RANGES.get(found[1] if found else "", (0, MOST, ""))
            if found and not low <= float(found[2]) <= high:
                raise UserError(
                    f"auto_augment {self.auto_augment!r}: {found[1]} ({meaning}) must be from "
                    f"{low:g} to {high:g}, got {found[2]}"
                )
        return self


class Mixing(Section):
    """timm's mixup and cutmix."""

    mixup: Annotated[float, Field(ge=0, le=1000)]
    """Alpha of mixup."""
    cutmix: Annotated[float, Field(ge=0, le=1000)]
    """Alpha of cutmix."""
    probability: Share
    """That a batch is mixed at all."""
    switch_probability: Share
    """That it is cutmix where both are on."""
    mode: Literal["batch", "pair", "elem"]
    """What a draw is made for."""

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        if self.mixup == self.cutmix == 0:
            raise UserError(
                "mixup and cutmix are both 0, which mixes nothing; give one of them, or null in "
                "the place of the whole section"
            )
        return self


class SoftLabels(Section):
    """The part of a recipe that the distillation loss reads: (1−α)·CE + α·T²·KL."""

    alpha: Share
    """Weight of the teacher's soft labels; 1: the student never sees a label."""
    temperature: Positive
    """T of both softmaxes."""


class Recipe(Section):
    """A recipe: all that shapes the weights of every method alike, on any number of processes.

    A batch is drawn in ``shards`` of equal size (the reference code: one a GPU), each with a mixing
    of its own. How many processes share them out, and in how many passes, changes no number.
    """

    batch_size: Count
    """Images of one optimizer step, over all processes."""
    shards: Count
    """Equal parts that a batch is drawn and mixed in."""
    relational_batch: Literal["shard", "batch"]
    """The images that relations are taken between."""
    repeats: Count
    """Repeated augmentation: copies of each image that stand in a row."""
    precision: Literal["float32", "bfloat16", "float16"]
    """Of autocast."""
    optimizer: Optimizer
    """The optimizer."""
    schedule: Schedule
    """The learning rate over the epochs."""
    augmentation: Augmentation
    """What is done to each image."""
    mixing: Mixing | None
    """What is done to each batch; null: nothing."""
    label_smoothing: Rate
    """Probability that is spread over all classes."""
    drop_path: Rate
    """Rate of stochastic depth of the student."""
    ema_decay: Rate
    """Decay of the running mean of the weights, which a table shows beside them."""
    distillation: SoftLabels
    """Labels and soft labels."""

    @model_validator(mode="after")
    def _shards_are_equal(self) -> Self:
        if self.batch_size % self.shards:
            raise UserError(
                f"batch_size {self.batch_size} cannot be drawn in {self.shards} equal shards"
            )
        if self.mixing and self.batch_size // self.shards % 2:
            raise UserError(
                f"batch_size must give each of the {self.shards} shard(s) an even number of images "
                f"for mixup, got {self.batch_size // self.shards}"
            )
        return self

    @model_validator(mode="after")
    def _numbers_agree(self) -> Self:
        if self.repeats > self.batch_size:
            raise UserError(
                f"repeats {self.repeats} copies of an image do not fit into a batch of "
                f"{self.batch_size} (batch_size)"
            )
        peak, decay = self.optimizer.learning_rate, self.optimizer.weight_decay
        if peak * decay >= 1 and "prodigy" not in self.optimizer.name:  # whose rate is a factor
            raise UserError(
                f"optimizer.learning_rate {peak:g} times weight_decay {decay:g} is {peak * decay:g}"
                ": from 1 on a step takes away all of a weight, and more; lower one of them"
            )
        for key in ("warmup_learning_rate", "minimum_learning_rate"):
            if getattr(self.schedule, key) > peak:
                raise UserError(
                    f"schedule.{key} {getattr(self.schedule, key):g} is above the peak, "
                    f"optimizer.learning_rate {peak:g}; lower it"
                )
        return self


def check_warmup(name: str, recipe: Recipe, epochs: int) -> None:
    """Refuse a budget that ends before the warm-up does.

    Raises:
        UserError: names the recipe and both numbers.
    """
    warmup = recipe.schedule.warmup_epochs
    if warmup > epochs:
        raise UserError(
            f"recipes.{name}.schedule.warmup_epochs {warmup:g} is longer than a training of "
            f"{epochs} epoch(s); shorten it, or train longer"
        )
