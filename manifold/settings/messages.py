"""Turns what pydantic refuses into errors that name the source of a key, the key, and the cure."""

import difflib
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, ValidationError

from manifold.errors import Faults, UserError

EXPECTED = {
    "int": "an integer",
    "truth_value": "a number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "not_finite": "a finite number",
}


WIDE = 1000
BOUNDS = {"ge": Ge, "gt": Gt, "le": Le, "lt": Lt, "min_length": MinLen, "max_length": MaxLen}


@dataclass(frozen=True)
class Origin:
    """Tells which of the sources a key came from."""

    overrides: dict[str, Any]
    scale: str

    def of(self, path: str) -> str:
        node: Any = self.overrides
        for key in re.sub(r"\[\d+\]", "", path).split("."):
            if not isinstance(node, dict) or key not in node:
                return f"scale {self.scale!r}"
            node = node[key]
        return "--config or --configfile"


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean …?" for a misspelt name, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=3)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def unknown(key: str, name: str, known: Iterable[str]) -> UserError:
    """The error of a name that nothing defines."""
    known = list(known)
    return UserError(f"{key}: unknown {name!r}.{suggest(name, known)} Known: {', '.join(known)}")


def refuse_doubles(key: str, values: Iterable[Any]) -> None:
    """Refuse a list that names something twice.

    Raises:
        UserError: names the key and the doubled values.
    """
    values = list(values)
    doubles = sorted({str(value) for value in values if values.count(value) > 1})
    if doubles:
        raise UserError(f"{key} lists {', '.join(doubles)} more than once")


def teaching_error(error: ValidationError, model: type[BaseModel], origin: Origin) -> UserError:
    """All that is wrong; unknown keys alone where there are any: they often explain the rest."""
    found = error.errors()
    found = [e for e in found if e["type"] == "extra_forbidden"] or found
    lacking: dict[str, list[str]] = {}
    for each in found:
        if each["type"] == "missing":
            *section, key = each["loc"]
            lacking.setdefault(path_of(section) or "the top level", []).append(str(key))
    faults = Faults()
    for where, names in lacking.items():
        faults.add(f"scale {origin.scale!r}: {where} lacks {', '.join(names)}")
    for each in found:
        if each["type"] != "missing":
            faults.add(_of_one(each, model, origin))
    return faults.error()


def refused_arguments(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """What is wrong with each of the arguments that were held to a model: ``'tau' must be …``."""
    found = []
    for each in error.errors():
        path, words = _expected(each, model)
        found.append(f"{path!r} {words}, got {each['input']!r}")
    return found


def path_of(location: Iterable[str | int]) -> str:
    """Return ``recipes.A.optimizer.betas[0]`` of the keys and places that lead there."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


def _of_one(error: Any, model: type[BaseModel], origin: Origin) -> str:
    path, kind, value = path_of(error["loc"]), error["type"], error.get("input")
    if error["loc"][-1:] == ("[key]",):
        *section, name, _ = error["loc"]
        where = path_of(section)
        return f"{origin.of(where)}: a name in {where} must be text, got {name!r}; put it in quotes"
    if kind == "value_error":  # a check of this project's own, whose message says it all
        return f"{path}.{error['ctx']['error']}".lstrip(".")
    if kind == "extra_forbidden":
        *section, key = error["loc"]
        known = list(getattr(_at(model, section), "model_fields", {}))
        return (
            f"{origin.of(path)}: unknown key {key!r} in {path_of(section) or 'the top level'}."
            f"{suggest(key, known)} Known keys: {', '.join(known)}"
        )
    if kind == "not_finite":
        return f"{path}{error['ctx']['below']} must be a finite number, got {error['ctx']['value']}"
    path, words = _expected(error, model)
    if kind.startswith(("greater_than", "less_than")):
        return f"{path} {words}, got {value}"
    cure = ""
    if kind == "string_type" and isinstance(value, bool | float | int):
        cure = f"; put it in quotes, after --config as in {path.rpartition('.')[2]}='\"v1\"'"
    return f"{origin.of(path)}: {path} {words}, got {value!r} ({type(value).__name__}){cure}"


def _expected(error: Any, model: type[BaseModel]) -> tuple[str, str]:
    """The path of a value that is wrong, and what it must be."""
    path, kind = path_of(error["loc"]), error["type"]
    annotation = _annotation(model, error["loc"])
    if kind == "literal_error":
        return path, f"must be one of {', '.join(map(repr, typing.get_args(_bare(annotation))))}"
    if kind.startswith(("greater_than", "less_than")):
        return path, f"must {_bounds(annotation, is_low=kind.startswith('greater_than'))}"
    if kind in ("too_short", "too_long"):
        return path, f"must {_length(annotation)}"
    name = kind
    for ending in ("_size", "_type", "_parsing", "_from_float"):
        name = name.removesuffix(ending)
    if name == "truth_value" and _bare(annotation) is int:
        name = "int"
    if name == "model":
        return path, f"must be a mapping ({_bare(annotation).__name__})"
    return path, f"must be {EXPECTED.get(name, error['msg'])}"


# ---- what a key was annotated with -------------------------------------------------------------


def _annotation(model: type[BaseModel], location: Iterable[str | int]) -> Any:
    """The annotation of a key, with the bounds that it stands under."""
    *above, last = location
    section = _at(model, above)
    if isinstance(section, type) and issubclass(section, BaseModel):
        field = section.model_fields[last]
        return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return typing.get_args(section)[-1]


def _at(model: type[BaseModel], location: Iterable[str | int]) -> Any:
    """What stands at a place: a model, or the type of a list or mapping."""
    kind: Any = model
    for part in location:
        kind = _bare(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation
        else:
            kind = typing.get_args(kind)[-1]
    return _bare(kind)


def _bare(kind: Any) -> Any:
    """A type without its bounds, and without "or null"."""
    if typing.get_origin(kind) is Annotated:
        return _bare(typing.get_args(kind)[0])
    present = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    is_optional = type(None) in typing.get_args(kind)
    return _bare(present[0]) if is_optional and len(present) == 1 else kind


def bounds_of(kind: Any) -> dict[str, float]:
    """The bounds of an annotation: ge, gt, le, lt of a number; min and max length of a list."""
    found: dict[str, float] = {}
    if typing.get_origin(kind) is Annotated:
        inner, *metadata = typing.get_args(kind)
        found |= bounds_of(inner)
        for entry in metadata:
            for name, bound in BOUNDS.items():
                if isinstance(entry, bound):
                    found[name] = getattr(entry, name)
            found |= bounds_of(Annotated[int, *entry.metadata]) if _has_metadata(entry) else {}
    elif type(None) in typing.get_args(kind):
        for argument in typing.get_args(kind):
            found |= bounds_of(argument)
    return found


def _has_metadata(entry: Any) -> bool:
    return bool(getattr(entry, "metadata", None))


def _bounds(kind: Any, is_low: bool) -> str:
    """Say which numbers are allowed; of a wide range, the side that a number is beyond."""
    bounds = bounds_of(kind)
    or_null = ", or be null" if type(None) in typing.get_args(_unannotated(kind)) else ""
    lower = bounds.get("ge", bounds.get("gt"))
    upper = bounds.get("le", bounds.get("lt"))
    if lower is not None and upper is not None and upper < WIDE:
        left, right = "[" if "ge" in bounds else "(", "]" if "le" in bounds else ")"
        return f"lie in {left}{bound_in_words(lower)}, {bound_in_words(upper)}{right}{or_null}"
    if not is_low:
        return f"be {'at most' if 'le' in bounds else 'below'} {bound_in_words(upper)}{or_null}"
    if lower == 0:
        return ("not be negative" if "ge" in bounds else "be positive") + or_null
    return f"be {'at least' if 'ge' in bounds else 'above'} {bound_in_words(lower)}{or_null}"


def bound_in_words(value: float) -> str:
    """A bound in words: a count in full, with commas."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _length(kind: Any) -> str:
    """Say how many values a list holds."""
    bounds = bounds_of(kind)
    fewest, most = bounds.get("min_length", 0), bounds.get("max_length")
    if fewest == most:
        return f"hold {fewest} values"
    return f"hold {fewest} to {most} values" if most is not None else f"hold at least {fewest}"


def _unannotated(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
