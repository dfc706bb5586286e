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


OPTIONS = {  # of Snakemake: how each may be written, and how several values are given
    "--config": (("--config", "-C"), "words", "--config scale=mini seeds='[0,1]'"),
    "--configfile": (("--configfile", "--configfiles"), "files", "--configfile a.yaml b.yaml"),
}


def refuse_repeated(arguments: list[str]) -> None:
    """Refuse an option of configuration that is given twice: Snakemake takes the last one alone.

    Raises:
        UserError: names what would be lost.
    """
    for option, (spellings, values, example) in OPTIONS.items():
        given = [
            place for place, word in enumerate(arguments) if word.partition("=")[0] in spellings
        ]
        if len(given) > 1:
            lost = arguments[given[0] : given[1]]
            raise UserError(
                f"{option} is given {len(given)} times, and Snakemake reads the last one alone: "
                f"{' '.join(lost)!r} would be ignored. Give all {values} after one {option}, for "
                f"instance {example}"
            )
