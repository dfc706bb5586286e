"""The section of a scale that says what detectors learn, and on which backbones.

Keys with a default are those that the files of published runs have not; it is what these ran with.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from benchmarks.evidence.study import SeededSettings
from benchmarks.scenes import Scenes, refuse_all_but_one
from manifold.settings import Section
from manifold.settings.section import Epochs, Location, WholeNumber


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
        refuse_all_but_one(self.scenes, self.folder)
        return self


class DetectionSettings(SeededSettings):
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
