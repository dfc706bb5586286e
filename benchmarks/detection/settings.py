"""The section of a scale that says what detectors learn, and on which backbones.

Keys with a default are those that the files of published runs have not; it is what these ran with.
"""

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from benchmarks.evidence.study import StudySettings
from manifold.errors import UserError
from manifold.settings import Section
from manifold.settings.section import (
    Count,
    CountRange,
    Epochs,
    Location,
    PositiveShare,
    Rate,
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


class Ignored(Section):
    """Ids of annotations that are known to be broken, and left out; ids restart in each file."""

    train: list[WholeNumber] = Field(default_factory=list)
    """Of the training annotations."""
    test: list[WholeNumber] = Field(default_factory=list)
    """Of the test annotations."""


class CocoFolder(Section):
    """Images with annotations in COCO's format."""

    train_images: Location
    """Folder of the training images."""
    train_annotations: Location
    """JSON file of their annotations."""
    test_images: Location
    """Folder of the test images."""
    test_annotations: Location
    """JSON file of their annotations."""
    ignored: Ignored = Ignored()
    """Annotations that are left out, by the split and their ids."""


class DetectionData(Section):
    """The images of the detectors: composed scenes, or a folder."""

    scenes: Scenes | None
    """Either these."""
    folder: CocoFolder | None
    """Or those."""
    masks: bool
    """false: boxes alone, and Mask R-CNN is trained without its mask branch."""
    channels: Literal[1, 3]
    """Of the images; a student of another number is adapted."""
    verify: bool
    """Decode every image of a folder before any compute."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.scenes is None) == (self.folder is None):
            raise UserError(
                "scenes, folder: give one of the two, and null for the other; got "
                f"{'neither' if self.scenes is None else 'both'}"
            )
        return self


class DetectionSettings(StudySettings):
    """Detectors on the students as backbones."""

    pair: str
    """Of the students."""
    recipe: str
    """Of the students."""
    epochs: Epochs
    """The students' budget."""
    methods: list[str]
    """Whose students are backbones."""
    controls: list[Literal["random", "patch_embedding"]] = Field(default=["random"])
    """Backbones beside them: random weights; the patch embedding of the baseline's student, all
    else random."""
    baseline: str
    """Gains are over this method's backbone."""
    data: DetectionData
    """What the detectors learn."""
    seeds: list[WholeNumber] | None
    """Of the detectors and of the students below them; null: the experiment's."""
    detectors: dict[str, Location]
    """name: mmdet's configuration file; null takes a scale's detector away."""
    options: dict[str, Any]
    """Laid over those that have such a key, as by mmengine's --cfg-options."""
    least_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None
    """Few images are trained for more epochs than the file says, until the steps are as many;
    null, or train_cfg.max_epochs in the options: as many epochs as are said."""
    pictures: WholeNumber
    """Test images that are drawn."""

    @field_validator("detectors", mode="before")
    @classmethod
    def _leave_out(cls, detectors: Any) -> Any:
        if not isinstance(detectors, dict):
            return detectors
        return {k: v for k, v in detectors.items() if v not in (None, "null")}  # Snakemake's text
