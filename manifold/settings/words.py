"""The words of ``--config``."""

import json
from typing import Any

import yaml

from manifold.errors import UserError
from manifold.settings.files import merge


def parse_words(words: list[str]) -> dict[str, Any]:
    """Read ``key=value`` words as ``snakemake --config`` does: the value is YAML."""
    overrides: dict[str, Any] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise UserError(f"--config expects key=value, got {word!r}")
        try:
            overrides = merge(overrides, {key: yaml.safe_load(value)})
        except yaml.YAMLError as error:
            raise UserError(f"--config {word!r}: the value is not YAML: {error}") from error
    return overrides


def to_words(overrides: dict[str, Any]) -> list[str]:
    """The inverse of ``parse_words``."""
    return [f"{key}={json.dumps(value)}" for key, value in sorted(overrides.items())]


def refuse_repeated(arguments: list[str]) -> None:
    """Refuse a command line that gives ``--config`` twice: Snakemake takes the last one alone.

    Raises:
        UserError: names what would be lost.
    """
    given = [
        place
        for place, word in enumerate(arguments)
        if word in ("--config", "-C") or word.startswith("--config=")
    ]
    if len(given) > 1:
        lost = arguments[given[0] : given[1]]
        raise UserError(
            f"--config is given {len(given)} times, and Snakemake reads the last one alone: "
            f"{' '.join(lost)!r} would be ignored. Give all words after one --config, for instance "
            "--config scale=mini seeds='[0,1]'"
        )
