"""What every section of the configuration is: a frozen pydantic model that refuses unknown keys."""

import contextlib
import os
import types
import typing
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Interpolation = Literal["bilinear", "bicubic", "nearest"]


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
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value: Any, info: ValidationInfo) -> Any:
        return read(cls.model_fields[info.field_name].annotation, value)

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values of some keys, which are not checked."""
        own = {key: getattr(self, key) for key in type(self).model_fields}
        return self.model_construct(**own | changes)


def read(kind: Any, value: Any) -> Any:
    """Read a number, truth value or null where the type asks for one and text came.

    Snakemake hands the values inside ``--config key={...}`` and ``--config key=[...]`` on as text.
    A truth value is no number, though Python takes it for one.
    """
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    outer, arguments = typing.get_origin(kind), typing.get_args(kind)
    if outer in (typing.Union, types.UnionType):
        if isinstance(value, str) and _plain(value) is None:
            return None
        present = [argument for argument in arguments if argument is not type(None)]
        return read(present[0], value) if value is not None and len(present) == 1 else value
    if outer is list and isinstance(value, list):
        return [read(arguments[0], item) for item in value]
    if outer is dict and isinstance(value, dict):
        return {key: read(arguments[1], item) for key, item in value.items()}
    if isinstance(value, bool) and (kind in (int, float) or outer is Literal):
        raise PydanticCustomError("truth_value", "a truth value is no number")
    return _read_word(kind, outer, value) if isinstance(value, str) else value


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


def _plain(text: str) -> Any:
    """The YAML value of a word, or the text where it is none."""
    with contextlib.suppress(yaml.YAMLError):
        return yaml.safe_load(text)
    return text
