"""Records of what has run, written and read; nothing here needs torch, so no table does."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manifold.errors import UserError
from manifold.files import sha256, write_text
from manifold.settings import PRETRAINED, UNTRAINED, Experiment
from manifold.training import finished

SHARE = "gradient_share_"  # what a column of metrics.csv begins with, before the term's name


def write_run(path: Path, record: dict[str, Any]) -> None:
    write_text(path, json.dumps(record, indent=2, sort_keys=True) + "\n")


def read_run(path: Path) -> dict[str, Any]:
    """Read a run.json.

    Raises:
        UserError: it is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError(f"it holds a {type(record).__name__} where a record stands")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete its folder to run it again"
        ) from error
    return record


def is_complete(directory: Path, names: Iterable[str], record: str, fingerprint: str) -> bool:
    """Whether a folder holds its files, unharmed, and the record of this very configuration.

    Files that Snakemake has removed are brought back.

    Args:
        names: the files that must be there.
        record: the one of them that holds a fingerprint, and the SHA-256 of others in ``files``.
    """
    if not all((directory / name).is_file() for name in names):
        finished.bring_back(directory, record, fingerprint)
    if not all((directory / name).is_file() for name in names):
        return False
    found = read_run(directory / record)
    digests = found.get("files")
    is_this = found.get("fingerprint") == fingerprint and isinstance(digests, dict)
    return is_this and all(
        (directory / name).is_file() and sha256(directory / name) == digest
        for name, digest in digests.items()
    )


def record_of(weights: Path) -> Path:
    """Where a record of weights stands: a training's run.json, or that of a file made otherwise."""
    if weights.stem in (PRETRAINED, UNTRAINED):
        return weights.with_suffix(".json")
    return weights.with_name("run.json")


def check_weights(weights: Path) -> None:
    """Hold weights to the SHA-256 in the record beside them, where there is one.

    Raises:
        UserError: they are other bytes than those of the record.
    """
    path = record_of(weights)
    if not (weights.is_file() and path.is_file()):
        return
    digest, record = sha256(weights), read_run(path)
    if digest not in (*record.get("files", {}).values(), record.get("sha256")):
        raise UserError(
            f"{weights} is damaged or is not of {path}: its SHA-256 is {digest}; fetch it again, "
            "or move the record away to use other weights"
        )


def evaluation_path(experiment: Experiment, pair: str) -> Path:
    return experiment.teacher_directory(pair) / "evaluation.json"


def teacher_in_words(measured: dict, name: str) -> str:
    """What a caption says of a teacher as it was measured."""
    if measured["top1"] is None:
        return f"The teacher{name} has no classifier, and so no accuracy."
    return f"The teacher{name} reaches {measured['top1']:.2f} % (one run)."


def read_teacher(experiment: Experiment, pair: str) -> dict:
    """Return the measurement of the teacher as it is now.

    Raises:
        UserError: it was not measured, or its weights have changed since.
    """
    path = evaluation_path(experiment, pair)
    if not path.is_file():
        raise UserError(f"{path}: the teacher was not measured; snakemake does it")
    measured = read_run(path)
    weights = experiment.teacher_weights(pair)
    if measured["sha256"] != sha256(weights):
        raise UserError(f"{path} is of other weights than {weights}; delete it to measure them")
    return measured
