"""Where configuration files are, and how they are read."""

import os
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from manifold.errors import UserError
from manifold.files import read_text

ROOT = Path(__file__).resolve().parents[2]


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # ten times as fast with libyaml
    """A safe loader that refuses a key which stands twice: YAML's own keeps the last of them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise UserError(f"line {line}: the key {key.value!r} is given twice; keep one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def find(path: str | Path) -> Path:
    """The file of that name in the working directory, or else in the clone.

    So the files that ship with the suite are found from any working directory, and one's own
    come first.
    """
    path = Path(os.path.expanduser(path))
    return path if path.exists() or not (ROOT / path).exists() else ROOT / path


def let_jobs_run_these_sources() -> None:
    """Put the packages that plan a workflow first for every process that is started from it.

    So a workflow runs what stands beside its Snakefile, also from another working directory; on a
    node of a cluster the Snakefile is read again, and this with it.
    """
    others = [path for path in [os.environ.get("PYTHONPATH")] if path]
    if str(ROOT) not in os.pathsep.join(others).split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: there is no such file, or it is not a YAML mapping.
    """
    try:
        return read_yaml_text(read_text(path), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def read_yaml_text(text: str, name: str) -> dict[str, Any]:
    """Read a YAML mapping that ``name`` gave.

    Raises:
        UserError: it is not a YAML mapping, or a key is given twice.
    """
    try:
        content = deepcopy(_parsed(text))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} must hold a mapping, got {type(content).__name__}")
    return content


@lru_cache(maxsize=64)  # an experiment is resolved several times in a process, from the same files
def _parsed(text: str) -> Any:
    """What YAML reads in a text; whoever is given it has to copy it."""
    return yaml.load(text, Loader)


def merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``overrides`` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged
