"""Scenes that studies of other tasks compose of the students' data: what shapes them.

Keys with a default are those that the files of published runs have not.
"""

import itertools
from typing import Self

from pydantic import Field, model_validator

from manifold.errors import UserError
from manifold.settings.section import (
    Count,
    CountRange,
    PositiveShare,
    Rate,
    Section,
    Size,
    WholeNumber,
)


class Photographs(Section):
    """Files that scikit-image and scikit-learn carry; none serves two splits."""

    train: list[str]
    """Backgrounds of the training scenes."""
    validation: list[str] = Field(default_factory=list)
    """Backgrounds of the validation scenes."""
    test: list[str]
    """Backgrounds of the test scenes."""

    @model_validator(mode="after")
    def _serve_one_split(self) -> Self:
        for split in ("train", "test"):
            if not getattr(self, split):
                raise UserError(f"{split} must name at least one photograph")
        for one, other in itertools.combinations(type(self).model_fields, 2):
            if both := sorted(set(getattr(self, one)) & set(getattr(self, other))):
                raise UserError(
                    f"{one}, {other}: {', '.join(both)} would stand in {one} and in {other} "
                    "scenes; take it out of one"
                )
        return self


class Scenes(Section):
    """Scenes that are composed: items of the students' data set on photographs."""

    seed: WholeNumber
    """Of the composition."""
    train: Count
    """Scenes to train on."""
    validation: Count | None = None
    """Scenes of held-out images on photographs of their own, for AP epoch by epoch and for every
    choice; null: none."""
    test: Count
    """Scenes to test on."""
    size: Size
    """Width, height, in pixels."""
    items: CountRange
    """Fewest, most in a scene."""
    sides: CountRange
    """Smallest, largest side of an item, in pixels."""
    least_visible: PositiveShare
    """The share of every item that others leave uncovered."""
    foreground: Rate | None
    """An item is what is brighter (of 1); null: its whole rectangle."""
    photographs: Photographs
    """The backgrounds."""
    brightness: PositiveShare
    """Of the photographs: their grey values are multiplied by it."""
    tries: Count
    """Draws of an item before a scene is given up as too crowded."""

    @model_validator(mode="after")
    def _can_be_composed(self) -> Self:
        if min(self.size) < self.sides[1]:
            raise UserError(
                "size must be a width and a height of at least the largest of sides, "
                f"{self.sides[1]}; got {self.size}"
            )
        if self.validation is not None and not self.photographs.validation:
            raise UserError("photographs.validation must name at least one photograph")
        return self


def refuse_all_but_one(scenes: Scenes | None, folder: Section | None) -> None:
    """Refuse data that are both composed scenes and a folder, or neither.

    Raises:
        UserError: names both keys.
    """
    if (scenes is None) == (folder is None):
        raise UserError(
            "scenes, folder: give one of the two, and null for the other; got "
            f"{'neither' if scenes is None else 'both'}"
        )
