"""The class of a method, and the arguments that its constructor is annotated for."""

from functools import lru_cache
from importlib import import_module
from inspect import signature
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, ValidationError, create_model

from manifold.distiller import Distiller
from manifold.errors import UserError, told
from manifold.settings import Method, Section
from manifold.settings.messages import refused_arguments


def find_distiller(method: str, definition: Method) -> type[Distiller]:
    """The class that a method's definition names.

    Raises:
        UserError: its module cannot be imported, or has no such class of a method.
    """
    module, _, name = definition.distiller.partition(":")
    try:
        kind = getattr(import_module(module), name)
    except Exception as error:  # a user's own file may fail in any way
        raise UserError(
            f"method {method!r}: there is no {definition.distiller!r} ({told(error)}); "
            "'distiller' in its definition is module:Class"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Distiller)):
        raise UserError(f"method {method!r}: {definition.distiller} is not a manifold.Distiller")
    return kind


def checked_arguments(kind: type[Distiller], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with the numbers as the constructor's annotations ask for them.

    An annotation may be a bare ``float``, or one with bounds, as in ``manifold.settings.section``.

    Raises:
        UserError: names every number that is out of its bounds, or none.
    """
    numbers = {name: arguments[name] for name in number_annotations(kind) if name in arguments}
    model = _numbers_section(kind, frozenset(numbers))
    try:
        checked = model(**numbers)
    except ValidationError as error:
        raise UserError(f"argument {', '.join(refused_arguments(error, model))}") from error
    return arguments | {name: getattr(checked, name) for name in numbers}


@lru_cache  # a cohort has many members of one class, and pydantic takes its time
def _numbers_section(kind: type[Distiller], names: frozenset[str]) -> type[Section]:
    """A section with these of the constructor's numbers, all of them required."""
    annotations = number_annotations(kind)
    numbers = {name: (annotations[name], ...) for name in annotations if name in names}
    return create_model("Arguments", __base__=_Undocumented, **numbers)


class _Undocumented(Section):
    """Its keys have no docstrings, which pydantic would go through all modules to look for."""

    model_config = ConfigDict(use_attribute_docstrings=False)


def number_annotations(kind: type[Distiller]) -> dict[str, Any]:
    """The constructors' parameters that are numbers, with their annotations.

    Those of the classes that it derives from are among them.
    """
    return {
        name: parameter.annotation
        for each in reversed(kind.__mro__)
        if issubclass(each, Distiller)
        for name, parameter in signature(each).parameters.items()
        if _bare(parameter.annotation) in (int, float)
    }


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
