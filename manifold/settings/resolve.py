"""From a scale's file and what the user overrides to one resolved experiment."""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, create_model

from manifold.errors import UserError, is_of_a_full_disk
from manifold.files import read_text, write_text
from manifold.settings.experiment import Experiment
from manifold.settings.files import ROOT, find, merge, read_yaml, read_yaml_text
from manifold.settings.messages import Origin, suggest, teaching_error, unknown
from manifold.settings.plain import fingerprint, to_plain
from manifold.settings.section import NULLS, read

# What a cell's weights depend on: a run that overrides any of these gets a folder of its own.
SHAPING_SECTIONS = ("data", "pairs", "recipes", "method_definitions")
SHAPING = (*SHAPING_SECTIONS, "evaluation_split")
SHOWN_CHANGES = 5
STUDY = "study"  # the key of a study's section that names the class that declares it
RESOLVED = "resolved"  # the key of a file that holds a whole experiment


def resolve(overrides: dict[str, Any]) -> Experiment:
    """Merge the named scale with ``overrides`` (the content of ``--config`` and config files).

    Raises:
        UserError: an unknown or missing key, a value of the wrong type, a name that nothing
            defines, or a combination that cannot be run.
    """
    overrides = dict(overrides)
    scale = overrides.pop("scale", None)
    if not isinstance(scale, str):
        raise UserError(
            f"'scale' must be one of {', '.join(known_scales())} or a .yaml file, got {scale!r}"
        )
    origin = Origin(overrides, scale)
    if overrides.pop(RESOLVED, False):
        return _build({**overrides, "scale": scale}, origin, known=overrides)
    base, name = load_scale(scale), Path(scale).stem
    overrides = _as_in_a_scale(overrides, base)
    merged = _join_own_methods(merge(base, overrides), base, overrides)
    merged = _of_other_data(merged, base, overrides, name)
    _refuse_what_cannot_be_taken_away(overrides, base)
    if read(str | None, merged.get("name")) is not None:
        return _build({**merged, "scale": name}, origin, known=base)
    experiment = _build({**merged, "scale": name, "name": name}, origin, known=base)
    if all(merged.get(key) == base.get(key) for key in SHAPING_SECTIONS):
        return experiment
    own = _build({**base, "scale": name, "name": name}, Origin({}, scale), known=base)
    return experiment.replaced(name=_experiment_name(experiment, own))


def derived(experiment: Experiment, overrides: dict[str, Any]) -> Experiment:
    """Lay ``overrides`` over a whole experiment; its name stays, unless they hold another.

    Raises:
        UserError: as ``resolve`` raises it.
    """
    return resolve(merge(_whole(experiment), overrides))


def read_experiment(path: Path) -> Experiment:
    """Read a resolved experiment, as ``write_experiment`` wrote it.

    Raises:
        UserError: it is missing, damaged, or of another version of the suite.
    """
    return resolve(read_yaml(path))


def write_experiment(experiment: Experiment) -> Path:
    """Write ``experiment.yaml``: complete, and usable again as ``--configfile``.

    Raises:
        UserError: the folder of the results cannot be made.
    """
    try:
        experiment.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_of_a_full_disk(error):
            raise
        raise UserError(
            f"the folder {experiment.directory} cannot be made ({error.strerror}); choose another "
            "place for results or name"
        ) from error
    text = experiment_text(experiment)
    before = read_text(experiment.file) if experiment.file.is_file() else None
    if before != text:
        has_runs = any(True for _ in experiment.directory.rglob("run.json"))
        if has_runs and before is not None and (changed := _reshaped(before, experiment)):
            print(
                f"{experiment.directory} holds runs of other settings, and its name is used again: "
                f"{changed}. What these shape is made anew; another name keeps both apart",
                file=sys.stderr,
            )
        write_text(experiment.file, text)
    return experiment.file


def experiment_text(experiment: Experiment) -> str:
    """What experiment.yaml holds."""
    return (
        "# Every setting of the runs in this folder, written by the workflow. Usable again:\n"
        f"#   snakemake --cores all reproduce_table1 --configfile {experiment.file}\n"
        + yaml.safe_dump(_whole(experiment), sort_keys=False, allow_unicode=True, width=100)
    )


def _reshaped(before: str, experiment: Experiment) -> str:
    """What shapes weights otherwise than in an earlier experiment.yaml, in a few words."""
    try:
        earlier = read_yaml_text(before, str(experiment.file))
    except UserError:  # damaged, and about to be replaced
        return ""
    pairs = ((key, earlier.get(key), to_plain(getattr(experiment, key))) for key in SHAPING)
    changes = [change for pair in pairs for change in _changes(*pair)]
    more = f" and {len(changes) - SHOWN_CHANGES} more" if len(changes) > SHOWN_CHANGES else ""
    return ", ".join(changes[:SHOWN_CHANGES]) + more


def _changes(path: str, old: Any, new: Any) -> Iterator[str]:
    """The keys whose values differ; an entry that only one of both has shapes no cell of it."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [key for key in old if key in new]:
            yield from _changes(f"{path}.{key}", old[key], new[key])
    elif old != new:
        yield f"{path} was {old}, is {new}"


def _whole(experiment: Experiment) -> dict[str, Any]:
    """What ``resolve`` makes the same experiment of."""
    return {"scale": experiment.scale, RESOLVED: True, **to_plain(experiment)}


def known_scales() -> list[str]:
    return sorted(path.stem for path in (ROOT / "config/scales").glob("*.yaml"))


def load_scale(scale: str) -> dict[str, Any]:
    """Read a scale's file over the one that it extends, recipe files and methods filled in."""
    if scale.endswith((".yaml", ".yml")):
        content = read_yaml(Path(os.path.expanduser(scale)))
    else:
        path = ROOT / "config/scales" / f"{scale}.yaml"
        if not path.is_file():
            raise UserError(
                f"unknown scale {scale!r}.{suggest(scale, known_scales())} "
                f"Known: {', '.join(known_scales())}, or the path of a .yaml file"
            )
        content = read_yaml(path)
    content = _with_recipes(content)
    extended = content.pop("extends", None)
    if extended is None:
        below = {"method_definitions": read_yaml(ROOT / "config/methods.yaml")}
    else:
        below = load_scale(extended)
        return _of_other_data(merge(below, content), below, content, Path(extended).stem)
    return merge(below, content)


def _as_in_a_scale(overrides: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """What is laid over a scale, with its recipes' files read, and "null" for a study as null."""
    overrides = _with_recipes(overrides)
    for key, value in overrides.items():
        is_study = isinstance(base.get(key), dict) and STUDY in base[key]
        if is_study and isinstance(value, str) and value in NULLS:
            overrides[key] = None
    return overrides


def _with_recipes(content: dict[str, Any]) -> dict[str, Any]:
    """The content with the recipes that are named by their files, or extend one, filled in."""
    recipes = content.get("recipes")
    if not isinstance(recipes, dict):
        return dict(content)
    return {**content, "recipes": {name: _load_recipe(each) for name, each in recipes.items()}}


def _load_recipe(recipe: Any) -> Any:
    """Read a recipe: the path of its file, or a mapping that may extend such a file."""
    if isinstance(recipe, str):
        return _load_recipe(read_yaml(find(recipe)))
    if isinstance(recipe, dict) and isinstance(recipe.get("extends"), str | dict):
        changes = {key: value for key, value in recipe.items() if key != "extends"}
        return merge(_load_recipe(recipe["extends"]), changes)
    return recipe


# ---- studies -----------------------------------------------------------------------------------


def _build(content: dict[str, Any], origin: Origin, known: Iterable[str] = ()) -> Experiment:
    """Check a whole experiment; its class has the sections of its studies as fields.

    Args:
        known: keys that may be null without being fields: sections of studies that are taken away.
    """
    sections = {
        key: section[STUDY]
        for key, section in content.items()
        if isinstance(section, dict) and STUDY in section
    }
    absent = [key for key in known if key not in Experiment.model_fields and content[key] is None]
    kind = _experiment_kind(tuple(sections.items()), tuple(absent))
    try:
        return kind(**content)
    except ValidationError as error:
        raise teaching_error(error, kind, origin) from None


@lru_cache
def _experiment_kind(
    sections: tuple[tuple[str, Any], ...], absent: tuple[str, ...]
) -> type[Experiment]:
    studies = {key: find_study(key, declared) for key, declared in sections}
    fields = {key: (study.Settings, ...) for key, study in studies.items()}
    fields |= {key: (type(None), None) for key in absent}
    kind = create_model("Experiment", __base__=Experiment, **fields)
    kind.study_kinds = studies
    return kind


def find_study(section: str, declared: Any) -> Any:
    """Return the class that declares a study, named ``module:Class``.

    Raises:
        UserError: there is none of that name.
    """
    module, _, name = str(declared).partition(":")
    try:
        kind = getattr(import_module(module), name)
    except Exception as error:  # the file is the user's, and fails as it likes when it is imported
        raise UserError(
            f"{section}.{STUDY}: there is no {declared!r} ({type(error).__name__}: "
            f"{error}); it is module:Class of the file that declares the study"
        ) from error
    if not all(hasattr(kind, needed) for needed in ("Settings", "students", "build")):
        raise UserError(f"{section}.{STUDY}: {declared} is not a benchmarks.evidence.study.Study")
    return kind


def _join_own_methods(merged: dict, base: dict, overrides: dict) -> dict:
    """Put methods that the user defines into every table that the user does not list otherwise."""
    given = overrides.get("method_definitions")
    if not isinstance(given, dict):
        return merged
    own = [name for name in given if name not in base["method_definitions"]]
    if not own:
        return merged
    joined = dict(merged)
    if "methods" not in overrides:
        joined["methods"] = [*base["methods"], *own]
    for key, section in merged.items():
        if isinstance(section, dict) and STUDY in section:
            study, theirs = find_study(key, section[STUDY]), overrides.get(key)
            listed = theirs if isinstance(theirs, dict) else {}
            joined[key] = study.with_methods(section, own, listed)
    return joined


def _refuse_what_cannot_be_taken_away(overrides: dict, base: dict) -> None:
    """Refuse a null for an entry that the scale does not have.

    Raises:
        UserError: names it, and what was probably meant.
    """
    for key, section in base.items():
        if not (isinstance(section, dict) and STUDY in section):
            continue
        kind = find_study(key, section[STUDY])
        for name in getattr(kind, "taken_away_by_null", ()):
            given = overrides.get(key)
            entries = given.get(name) if isinstance(given, dict) else None
            for entry, value in entries.items() if isinstance(entries, dict) else ():
                if value in (None, *NULLS) and entry not in section[name]:
                    raise unknown(f"{key}.{name}", entry, section[name])


def _of_other_data(merged: dict, base: dict, overrides: dict, scale: str) -> dict:
    """Keep the words on a scale's data from standing over others, and so the claims on them."""
    data, own = merged.get("data"), base.get("data")
    if not (isinstance(data, dict) and isinstance(own, dict)):
        return merged  # which is refused below
    sizes = [read(int, each.get("image_size")) for each in (data, own)]
    if data.get("dataset") == own.get("dataset") and sizes[0] == sizes[1]:
        return merged
    size = sizes[0]
    said = {
        "description": f"data {data.get('dataset')} {size}×{size}, otherwise as scale {scale}",
        "reported_dataset": None,
        "claims": None,
        "registered": None,
    }
    return merged | {key: value for key, value in said.items() if key not in overrides}


def _experiment_name(experiment: Experiment, own: Experiment) -> str:
    """The scale's name; with a hash of what shapes the weights, where the user overrides that."""
    changed = {}
    for section in SHAPING_SECTIONS:
        mine, theirs = getattr(experiment, section), getattr(own, section)
        if isinstance(theirs, dict):  # a new entry shapes no cells but its own
            mine = {name: mine[name] for name in theirs}
        if section == "method_definitions":
            mine, theirs = (
                {name: method.unnamed() for name, method in methods.items()}
                for methods in (mine, theirs)
            )
        if mine != theirs:
            changed[section] = mine
    return experiment.scale + (f"-{fingerprint(changed)[:8]}" if changed else "")
