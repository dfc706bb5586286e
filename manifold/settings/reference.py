"""Writes config/README.md and the JSON schemas from the models, so that they cannot disagree.

``python -m manifold describe-settings`` after a change of a model.
"""

import json
import types
import typing
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from manifold.files import write_text
from manifold.settings.experiment import Experiment
from manifold.settings.files import ROOT
from manifold.settings.messages import bound_in_words, bounds_of
from manifold.settings.method import Method
from manifold.settings.plain import to_plain
from manifold.settings.recipe import Recipe
from manifold.settings.resolve import resolve
from manifold.settings.section import MOST

DEFAULT_SCALE = "mini"
# Scales that have a section which the default scale has not.
FURTHER_SCALES = ("mini-choice", "mini-detection-choice")
EXTENDS = {"type": "string", "description": "What this is laid over."}
LONGEST_DEFAULT = 40  # characters; what is longer stands in the scale's file

INTRODUCTION = """# The configuration, key by key

Written from the models in `manifold/settings/` and from the declarations of the studies by
`python -m manifold describe-settings`; a test holds it to them.

A scale (`config/scales/NAME.yaml`) holds every key; `extends: OTHER` lays it over another.
`--config key=value …` and `--configfile FILE` are laid over the scale, mapping by mapping. An
unknown key is an error, and so is a value that no run can use; a number without an upper bound
here ends at 1,000,000,000, a seed or an id at the largest of 64 bits. What a run was resolved to
stands in `results/NAME/experiment.yaml`, which is usable again as `--configfile`.

*Default* is what the scale `mini` holds, which runs when nothing else is said. `schema/*.json` are
the same as JSON schemas: with the comment in the first line of a scale's file, editors that know
yaml-language-server complete keys and show their meaning.

A section with the key `study` belongs to the study that `module:Class` declares; the module may
stand anywhere that Python finds it. `null` in the place of the section takes the study away.
"""


def write(folder: Path = ROOT / "config") -> None:
    """Write README.md and schema/{scale,recipe,methods}.json into a folder."""
    for name, text in texts().items():
        write_text(folder / name, text)


def texts() -> dict[str, str]:
    """The files by name."""
    schemas = {
        "scale": _scale_schema(),
        "recipe": _recipe_schema(),
        "methods": {
            "type": "object",
            "additionalProperties": {"$ref": "#/$defs/Method"},
            "$defs": {"Method": Method.model_json_schema()},
        },
    }
    found = {
        f"schema/{name}.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        for name, schema in schemas.items()
    }
    return {"README.md": _readme(), **found}


# ---- the table ---------------------------------------------------------------------------------


def _readme() -> str:
    default = resolve({"scale": DEFAULT_SCALE})
    parts = [INTRODUCTION, *_sections("", type(default), default, set())]
    for scale in FURTHER_SCALES:
        further = resolve({"scale": scale})
        for key in further.study_kinds:
            if key not in default.study_kinds:
                parts += _sections(key, type(further).model_fields[key].annotation, None, set())
    return "\n".join(parts)


def _sections(path: str, model: type[BaseModel], value: Any, seen: set) -> list[str]:
    """A table of a model's keys, then those of the models in it."""
    if model in seen:
        return []
    seen.add(model)
    heading = f"## `{path}`" if path else "## Top level"
    summary = _summary(model) if path else ""
    lines = [heading, "", summary, ""] if summary else [heading, ""]
    lines += ["| key | type | default | bounds | meaning |", "|---|---|---|---|---|"]
    below = []
    for key, field in model.model_fields.items():
        if field.annotation is type(None):  # the section of a study that the scale has not
            continue
        own = getattr(value, key, None) if value is not None else None
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        meaning = (field.description or _summary(kind)).replace("\n", " ").replace("|", "\\|")
        cells = (f"`{key}`", _type(kind), _default(kind, own, value), _bounds(kind), meaning)
        lines.append(f"| {' | '.join(cells)} |")
        below += _models_below(f"{path}.{key}".lstrip("."), kind, own)
    lines.append("")
    for inner_path, inner, inner_value in below:
        lines += _sections(inner_path, inner, inner_value, seen)
    return lines


def _summary(kind: Any) -> str:
    """The first line of what a model says of itself."""
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return (kind.__doc__ or "").strip().partition("\n")[0] if is_model else ""


def _models_below(path: str, kind: Any, value: Any) -> list[tuple[str, type[BaseModel], Any]]:
    """The models that a key holds, with the first value that is there."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [(path, kind, value)]
    outer, arguments = typing.get_origin(kind), typing.get_args(kind)
    if outer is dict:
        first = next(iter(value.values()), None) if value else None
        return _models_below(f"{path}.NAME", arguments[1], first)
    if outer is Annotated:
        return _models_below(path, arguments[0], value)
    if outer in (typing.Union, types.UnionType):
        present = [argument for argument in arguments if argument is not type(None)]
        return [found for argument in present for found in _models_below(path, argument, value)]
    return []


def _type(kind: Any) -> str:
    outer, arguments = typing.get_origin(kind), typing.get_args(kind)
    if outer is Annotated:
        return _type(arguments[0])
    if outer is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if outer in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if outer is list:
        return f"list of {_type(arguments[0])}"
    if outer is dict:
        return f"mapping of {_type(arguments[1])}"
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    names |= {type(None): "null", Any: "anything"}
    return names.get(kind, "section")


def _default(kind: Any, value: Any, owner: Any) -> str:
    if owner is None or _models_below("", kind, value):
        return ""
    text = json.dumps(to_plain(value), ensure_ascii=False)
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "see the scale"


def _bounds(kind: Any) -> str:
    """The bounds of a number, or how many of them a list holds and the bounds of each."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    words = [
        f"{signs[name]} {bound_in_words(bound)}"
        for name, bound in bounds_of(kind).items()
        if name in signs and bound < MOST
    ]
    for inner in _elements(kind):
        words.append(_bounds(inner))
    found = bounds_of(kind)
    fewest, most = found.get("min_length"), found.get("max_length")
    if fewest is not None:
        number = f"{fewest} or more" if most is None else f"{fewest} to {most}"
        number = fewest if fewest == most else number
        words.append(f"{number} of them")
    return ", ".join(filter(None, words))


def _elements(kind: Any) -> list[Any]:
    """The type of a list's elements, in a list; none of another type."""
    outer, arguments = typing.get_origin(kind), typing.get_args(kind)
    if outer is list:
        return [arguments[0]]
    if outer is Annotated:
        return _elements(arguments[0])
    if outer in (typing.Union, types.UnionType):
        return [inner for argument in arguments for inner in _elements(argument)]
    return []


# ---- the schemas -------------------------------------------------------------------------------


def _scale_schema() -> dict[str, Any]:
    """Of a scale's file: every key may be left to the scale that it extends."""
    schema = _partial(type(resolve({"scale": DEFAULT_SCALE})).model_json_schema())
    for scale in FURTHER_SCALES:
        kind = type(resolve({"scale": scale}))
        further = _partial(kind.model_json_schema())
        schema["properties"] |= {key: further["properties"][key] for key in kind.study_kinds}
        schema["$defs"] = {**further["$defs"], **schema["$defs"]}
    for key, section in schema["properties"].items():
        if key not in Experiment.model_fields:
            schema["properties"][key] = {"anyOf": [section, {"type": "null"}]}
    schema["properties"]["name"] = {"anyOf": [schema["properties"]["name"], {"type": "null"}]}
    schema["properties"]["extends"] = EXTENDS
    schema["$defs"]["Recipe"]["properties"]["extends"] = EXTENDS
    recipe = {"anyOf": [{"$ref": "#/$defs/Recipe"}, {"type": "string"}]}
    schema["properties"]["recipes"]["additionalProperties"] = recipe
    _entries_may_be_null(schema)
    # A section of a study from elsewhere names it; its keys are checked by the study.
    schema["additionalProperties"] = {"type": "object", "required": ["study"]}
    return schema


def _entries_may_be_null(schema: dict[str, Any]) -> None:
    """An entry of a mapping is taken away by null."""
    for section in (schema, *schema["$defs"].values()):
        for field in section.get("properties", {}).values():
            entries = field.get("additionalProperties")
            if isinstance(entries, dict):
                field["additionalProperties"] = {"anyOf": [entries, {"type": "null"}]}


def _recipe_schema() -> dict[str, Any]:
    """Of a recipe's file: every key may be left to the recipe that it extends."""
    schema = _partial(Recipe.model_json_schema())
    schema["properties"]["extends"] = EXTENDS
    return schema


def _partial(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema in which nothing is required, since a file is laid over others."""
    if isinstance(schema, dict):
        return {key: _partial(value) for key, value in schema.items() if key != "required"}
    return [_partial(value) for value in schema] if isinstance(schema, list) else schema


def main() -> None:
    write()
