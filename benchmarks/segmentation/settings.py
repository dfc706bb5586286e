"""The section of a scale that says what segmenters learn, how, and on which backbones."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from benchmarks.evidence.study import SeededSettings
from benchmarks.scenes import Scenes, refuse_all_but_one
from manifold.errors import UserError
from manifold.settings.messages import refuse_doubles
from manifold.settings.recipe import Optimizer, Schedule
from manifold.settings.section import (
    AspectRange,
    Count,
    Epochs,
    Location,
    Rate,
    Section,
    Share,
    Side,
    Size,
    WholeNumber,
)

IGNORED = 255  # of a mask: a pixel of no class

Classes = Annotated[int, Field(ge=2, le=IGNORED)]
ClassNames = Annotated[list[str], Field(min_length=2, max_length=IGNORED)]


class Part(Section):
    """Images of one split, and their masks by the same names."""

    images: Location
    """Folder of the images."""
    masks: Location
    """Folder of PNG files of class indices, one an image: the same path without the ending."""


class MaskFolders(Section):
    """Images with index masks."""

    train: Part
    """What the segmenters learn."""
    test: Part
    """What they are measured on."""


class SegmentationData(Section):
    """The images of the segmenters: composed scenes, or folders."""

    scenes: Scenes | None
    """Either these, whose classes are those of the items, and the background."""
    folder: MaskFolders | None
    """Or those."""
    classes: Classes | None
    """Of a folder, how many; null where their names are given, and of scenes."""
    class_names: ClassNames | None
    """Of a folder, in the order of the indices; null: these are the names."""
    ignore_zero: bool
    """0 in a mask is no class, as 255 is, and k the class k − 1: ADE20K's annotations."""
    channels: Literal[1, 3]
    """Of the images; a student of another number is adapted."""
    size: Size
    """Width, height in pixels: images are shrunk or enlarged into it, and padded."""
    verify: bool
    """Decode every image and mask of a folder before any compute; false: their sizes, and masks,
    20 at least, until one has a pixel of a class."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        refuse_all_but_one(self.scenes, self.folder)
        given = [key for key in ("classes", "class_names") if getattr(self, key) is not None]
        if self.folder is None and (given or self.ignore_zero):
            raise UserError(
                "classes, class_names, ignore_zero: scenes have the classes of their items; give "
                "null, null and false"
            )
        if self.folder is not None and len(given) != 1:
            raise UserError(
                "classes, class_names: give the number of the folder's classes, or their names in "
                f"the order of the masks' indices; got {'both' if given else 'neither'}"
            )
        refuse_doubles("class_names", self.class_names or [])
        count = self.classes or len(self.class_names or [])
        if count + self.ignore_zero > IGNORED:
            raise UserError(
                f"classes, class_names: with ignore_zero the classes are 1 to {IGNORED - 1} in the "
                f"masks, since {IGNORED} is no class; got {count} classes, give at most "
                f"{IGNORED - 1}"
            )
        return self


class HeadRecipe(Section):
    """How the linear head on frozen features is trained."""

    epochs: Epochs
    """Passes over the training images."""
    batch_size: Count
    """Images of one step."""
    optimizer: Optimizer
    """timm's."""
    schedule: Schedule
    """timm's."""

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        if self.schedule.warmup_epochs > self.epochs:
            raise UserError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs:g} is longer than a training "
                f"of {self.epochs} epoch(s); shorten it, or train longer"
            )
        return self


Scale = Annotated[float, Field(ge=0.125, le=8)]


class Decoder(Section):
    """UPerNet's decoder, small."""

    channels: Annotated[int, Field(ge=1, le=8192)]
    """Of every level."""
    blocks: Count
    """Of a plain network, how many give a map, evenly spaced down to the last."""
    scales: Annotated[list[Scale], Field(min_length=1, max_length=7)]
    """Of a plain network's pyramid, beside its maps: powers of 2, largest first."""
    pools: Annotated[list[Side], Field(min_length=1, max_length=16)]
    """Sides of the grids that the coarsest level is pooled to."""

    @model_validator(mode="after")
    def _is_a_pyramid(self) -> Self:
        powers = {2.0**power for power in range(-3, 4)}
        is_ordered = self.scales == sorted(set(self.scales), reverse=True)
        if not is_ordered or not set(self.scales) <= powers:
            raise UserError(f"scales must be powers of 2, largest first; got {self.scales}")
        return self


class FineTuningRecipe(HeadRecipe):
    """How backbone and decoder are trained together."""

    drop_path: Rate
    """Rate of stochastic depth of the backbone."""
    horizontal_flip: Share
    """Probability of a flip."""
    resize: AspectRange
    """Smallest, largest factor of an image in `data.size`, which is then cut or padded to it."""
    decoder: Decoder
    """What stands on the backbone."""


class SegmentationSettings(SeededSettings):
    """Semantic segmentation on the students as backbones."""

    pair: str
    """Of the students."""
    recipe: str
    """Of the students."""
    epochs: Epochs
    """The students' budget."""
    methods: list[str]
    """Whose students are backbones; the two controls are always there."""
    baseline: str
    """Gains are over this method's backbone, whose patch embedding the control has."""
    data: SegmentationData
    """What is learnt."""
    frozen: HeadRecipe
    """The backbone as it is, with batch norm and a linear layer on its last tokens."""
    fine_tuned: FineTuningRecipe
    """The backbone trained on, with a decoder on its pyramid."""
    pictures: WholeNumber
    """Test images that are drawn."""
