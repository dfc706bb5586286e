"""What every section of the configuration is: a frozen pydantic model that refuses unknown keys.

A number's type says which numbers a run can use. None is NaN or infinite, whatever its type.
"""

import contextlib
import math
import os
import types
import typing
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from manifold.settings.files import Loader

Interpolation = Literal["bilinear", "bicubic", "nearest"]


def _in_order(values: list) -> list:
    if values[0] > values[1]:
        raise PydanticCustomError("in_order", "the smallest and the largest, in this order")
    return values


def _images_or_share(value: float) -> int | float:
    """Images are counted in whole numbers, which stay such in what is written of a run."""
    if value >= 1 and value != int(value):
        raise PydanticCustomError(
            "images_or_share", "a whole number of images, or a share of them below 1"
        )
    return value if 0 < value < 1 else int(value)


MOST = 1_000_000_000  # of anything that a run counts, weighs or waits for

Count = Annotated[int, Field(ge=1, le=MOST)]
WholeNumber = Annotated[int, Field(ge=0, le=2**63 - 1)]  # ids and seeds may be large
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
Processes = Annotated[int, Field(ge=1, le=4096)]  # of a machine, or of a training
Workers = Annotated[int, Field(ge=0, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
NotNegative = Annotated[float, Field(ge=0, le=MOST)]
ImagesOrShare = Annotated[float, Field(ge=0, le=MOST), AfterValidator(_images_or_share)]

_TWO = Field(min_length=2, max_length=2)
Side = Annotated[int, Field(ge=1, le=10_000)]  # of an image, in pixels
Size = Annotated[list[Side], _TWO]  # width, height
CountRange = Annotated[list[Count], _TWO, AfterValidator(_in_order)]
ShareRange = Annotated[list[PositiveShare], _TWO, AfterValidator(_in_order)]
Aspect = Annotated[float, Field(ge=0.01, le=100)]
AspectRange = Annotated[list[Aspect], _TWO, AfterValidator(_in_order)]


def _from_home(path: str) -> str:
    """The path with ``~`` as one's home folder, where this process can write such a name at all."""
    try:
        path.encode()  # what a command line of another encoding gave is no text
        os.fsencode(path)
    except UnicodeEncodeError:
        raise PydanticCustomError(
            "path",
            "a path in ASCII where the locale is not UTF-8 (or set LC_ALL=C.UTF-8 or PYTHONUTF8=1)",
        ) from None
    return os.path.expanduser(path)


def _without_wildcards(path: str) -> str:
    if "{" in path or "}" in path:
        raise PydanticCustomError(
            "path", "a path without braces, which Snakemake takes for wildcards"
        )
    return path


Location = Annotated[str, AfterValidator(_from_home)]  # of files; ~ is one's home
WorkflowFile = Annotated[Location, AfterValidator(_without_wildcards)]  # in a rule's files
NULLS = ("null", "Null", "NULL", "~")


class Section(BaseModel):
    """A section: typed keys with their bounds, each with its meaning below it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value: Any, info: ValidationInfo) -> Any:
        value = read(cls.__pydantic_fields__[info.field_name].annotation, value)
        refuse_not_finite(value)
        return value

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values of some keys, which are not checked."""
        own = {key: getattr(self, key) for key in type(self).model_fields}
        return self.model_construct(**own | changes)


def refuse_not_finite(value: Any) -> None:
    """Refuse NaN and infinity at any depth of a value whose inner types nothing declares.

    Raises:
        PydanticCustomError: tells where below the key it stands.
    """
    if found := _not_finite(value):
        path, number = found
        raise PydanticCustomError("not_finite", "", {"below": path, "value": str(number)})


def _not_finite(value: Any) -> tuple[str, float] | None:
    """The first number that is not finite, and the path of where it stands below the value."""
    if value is None or isinstance(value, (str, int)):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else ("", value)
    if isinstance(value, dict):
        for key, inner in value.items():
            if found := _not_finite(inner):
                return f".{key}{found[0]}", found[1]
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            if found := _not_finite(inner):
                return f"[{place}]{found[0]}", found[1]
    return None


def read(kind: Any, value: Any) -> Any:
    """Read a number, truth value or null where the type asks for one and text came.

    Snakemake hands the values inside ``--config key={...}`` and ``--config key=[...]`` on as text.
    A truth value is no number, though Python takes it for one.
    """
    return _reader(kind)(value)


@cache  # an experiment has a thousand values, of a hundred types
def _reader(kind: Any) -> Callable[[Any], Any]:
    """What reads a value of a type."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    outer, arguments = typing.get_origin(kind), typing.get_args(kind)
    if outer in (typing.Union, types.UnionType):
        present = [argument for argument in arguments if argument is not type(None)]
        one = _reader(present[0]) if len(present) == 1 else None

        def read_one_of(value: Any) -> Any:
            if value is None or (isinstance(value, str) and _plain(value) is None):
                return None
            return one(value) if one else value

        return read_one_of

    inner = _reader(arguments[-1]) if outer in (list, dict) else None

    def read_value(value: Any) -> Any:
        if outer is list and isinstance(value, list):
            return [inner(item) for item in value]
        if outer is dict and isinstance(value, dict):
            return {key: inner(item) for key, item in value.items()}
        if isinstance(value, bool) and (kind in (int, float) or outer is Literal):
            raise PydanticCustomError("truth_value", "a truth value is no number")
        return _read_word(kind, outer, value) if isinstance(value, str) else value

    return read_value


def _read_word(kind: Any, outer: Any, text: str) -> Any:
    if kind is str:
        return None if text in NULLS else text
    wanted: tuple[type, ...] = {int: (int,), float: (int, float), bool: (bool,)}.get(kind, ())
    if kind is Any:
        wanted = (bool, int, float, type(None))
    elif outer is Literal:
        wanted = tuple({type(choice) for choice in typing.get_args(kind)} - {str})
    value = _plain(text)
    if type(value) in wanted:
        return value
    if kind is float or (kind is Any and text[:1].isdigit()):  # YAML 1.1 reads 3e3 as text
        with contextlib.suppress(ValueError):
            return float(text)
    return text


@lru_cache(maxsize=4096)  # a scale has a thousand words, most of them more than once
def _plain(text: str) -> Any:
    """The YAML value of a word, or the text where it is none."""
    with contextlib.suppress(yaml.YAMLError):
        return yaml.load(text, Loader)
    return text
