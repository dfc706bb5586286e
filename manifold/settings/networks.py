"""The settings of networks: a student, its teacher, and the layers that are compared."""

from pathlib import Path
from typing import Any, Self, get_args

from pydantic import model_validator

from manifold.errors import UserError
from manifold.settings.data import TeacherInput
from manifold.settings.files import find
from manifold.settings.method import StudentKey
from manifold.settings.section import Count, Epochs, Section, WholeNumber, WorkflowFile

TRAIN_TEACHER = "train"
PRETRAINED = "pretrained"
UNTRAINED = "untrained"


class Model(Section):
    """A timm model; image size, channels and classes come from the data."""

    name: str
    """timm's name; with a tag where its weights are meant."""
    arguments: dict[str, Any]
    """What `timm.create_model` is given beside the name."""

    @property
    def is_headless(self) -> bool:
        """Whether it has no classifier, as networks that were trained without labels."""
        return self.arguments.get("num_classes") == 0

    @model_validator(mode="after")
    def _classes_are_the_datas(self) -> Self:
        if self.arguments.get("num_classes", 0) != 0:
            raise UserError(
                "arguments.num_classes follows from the data; leave it out, or give a teacher 0 "
                "for a network without a classifier"
            )
        return self


class Teacher(Section):
    """A teacher, and where its weights come from."""

    model: Model
    """The network."""
    weights: WorkflowFile
    """`train`, `pretrained` (timm's, by the model's name), `untrained`, or a file's path."""
    recipe: str | None
    """Of a teacher that is trained here, as are epochs and seed."""
    epochs: Epochs | None
    """The budget of its training."""
    seed: WholeNumber | None
    """Of its training; of an untrained teacher's initialisation too."""
    input: TeacherInput | None
    """How outside weights were made to see images; null: as the students' data."""

    @model_validator(mode="after")
    def _weights_can_be_had(self) -> Self:
        made_here = (TRAIN_TEACHER, PRETRAINED, UNTRAINED)
        if self.weights not in made_here and not find(self.weights).is_file():
            raise UserError(
                f"weights: no file {self.weights!r}; give the path of a .safetensors or .pth file, "
                f"{PRETRAINED!r} for timm's weights of that name, {TRAIN_TEACHER!r} to train the "
                f"teacher here, or {UNTRAINED!r} for a control"
            )
        if self.weights == UNTRAINED and self.seed is None:
            raise UserError("seed must be given to initialise the teacher here")
        if self.weights == TRAIN_TEACHER and self.model.is_headless:
            raise UserError(
                "weights: a teacher without a classifier (num_classes 0) cannot be trained here; "
                "give its file, or 'pretrained'"
            )
        if self.weights == TRAIN_TEACHER:
            for key in ("recipe", "epochs", "seed"):
                if getattr(self, key) is None:
                    raise UserError(f"{key} must be given to train the teacher here")
        return self


class LayerMap(Section):
    """Student blocks and the teacher blocks that they are compared with, pair by pair."""

    student: list[WholeNumber]
    """Blocks of the student, from 0."""
    teacher: list[WholeNumber]
    """Blocks of the teacher, as many."""

    @model_validator(mode="after")
    def _pairs_up(self) -> Self:
        if len(self.student) != len(self.teacher) or not self.student:
            raise UserError(
                "student and teacher must list equally many blocks, at least one; got "
                f"{self.student} and {self.teacher}"
            )
        return self


# Of a method that compares none; what a configuration names holds at least one.
NO_LAYERS = LayerMap.model_construct(student=[], teacher=[])


class Pair(Section):
    """A student and the teacher that it learns from."""

    student: Model
    """The network that is trained."""
    distilled_student: Model | None
    """The same network with DeiT's distillation token."""
    lifted_student: Model | None = None
    """The same network with a projector to the teacher's width before its head, which stays."""
    widened_student: Model | None = None
    """The same network with a last block of the teacher's width."""
    teacher: Teacher
    """What it learns from."""
    layers: dict[str, LayerMap]
    """Layer maps by name; methods ask for one of them."""
    most_tokens: Count
    """Maps of more tokens are merged to this many (paper: 196)."""
    methods: list[str] | None
    """The methods that this pair is for; null: all of the scale's."""

    @model_validator(mode="after")
    def _students_classify(self) -> Self:
        for key in get_args(StudentKey):
            model = getattr(self, key)
            if model is not None and model.is_headless:
                raise UserError(f"{key}: a student needs its classifier; leave num_classes out")
        return self


def teacher_file(weights: str, directory: Path) -> Path:
    """The file of a teacher's weights; ``directory`` holds those that are made here."""
    if weights == TRAIN_TEACHER:
        return directory / "student.safetensors"
    if weights in (PRETRAINED, UNTRAINED):
        return directory / f"{weights}.safetensors"
    return find(weights)
