"""Cells of which only the record is here: of other machines and earlier days, without weights.

``records/PAIR/RECIPE/N-epochs/METHOD/seed-SEED.json`` below an experiment's folder holds the
run.json and the metrics.csv of a cell, and a hash of both. A table is made from it as from the
cell itself; whatever needs weights has the cell trained. Nothing here needs torch: a plan asks.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings.made_by import is_outdated
from manifold.settings.plain import fingerprint

RECORDS = "records"  # the folder of an experiment
METRICS = "metrics.csv"
Key = tuple[str, str, int, str, int]  # pair, recipe, epochs, method, seed


@dataclass(frozen=True)
class Recorded:
    """What is known of a cell without its weights.

    Attributes:
        run: its run.json.
        metrics: the text of its metrics.csv.
    """

    run: dict[str, Any]
    metrics: str

    @property
    def key(self) -> Key:
        run = self.run
        return run["pair"], run["recipe_name"], run["epochs"], run["method"], run["seed"]


def record_path(root: Path, key: Key) -> Path:
    """Where the record of a cell stands below a folder of records."""
    pair, recipe, epochs, method, seed = key
    return root / pair / recipe / f"{epochs}-epochs" / method / f"seed-{seed}.json"


def packed(content: dict[str, Any]) -> str:
    """Content with its own hash, as the text of a file."""
    return json.dumps(content | {"sha256": fingerprint(content)}, sort_keys=True) + "\n"


def unpacked(path: Path, keys: set[str]) -> dict[str, Any]:
    """The content of a file that ``packed`` made.

    Raises:
        UserError: it is no such file, or was altered since.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("sha256")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is no record ({error}); fetch it anew, or leave it out") from error
    if content.keys() != keys:
        raise UserError(f"{path} is no record: it holds {', '.join(content)}; leave it out")
    if fingerprint(content) != digest:
        raise UserError(f"{path} was altered since it was written; fetch it anew, or leave it out")
    return content


def pack(recorded: Recorded) -> str:
    return packed({"run": recorded.run, "metrics": recorded.metrics})


def unpack(path: Path) -> Recorded:
    """Read a record.

    Raises:
        UserError: it is damaged, altered, or not of one cell.
    """
    found = Recorded(**unpacked(path, {"run", "metrics"}))
    try:
        digest, metrics = found.run["files"][METRICS], found.metrics.encode()
        _ = found.key, found.run["fingerprint"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no record of a run ({error!r}); leave it out") from error
    if digest != hashlib.sha256(metrics).hexdigest():
        raise UserError(f"{path} holds the metrics of another run; fetch it anew, or leave it out")
    return found


def expected_fingerprint(experiment: Any, key: Key) -> str | None:
    """Of the run.json of a cell as it is configured now; None where its teacher is not there."""
    weights = experiment.teacher_weights(key[0])
    if not weights.is_file():
        return None
    return fingerprint({**experiment.cell_identity(*key), "teacher_sha256": digest_of(weights)})


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, read once as long as it is the same."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@cache
def _digest(path: Path, *stamp: int) -> str:
    return sha256(path)


def recorded(experiment: Any, key: Key) -> Recorded | None:
    """The record that stands for a cell; None where the cell is here, or there is none of it.

    As of a whole cell: one of another configuration, or of code that is not to be kept, is none.

    Raises:
        UserError: the record is damaged or altered, or the method's file is not Python.
    """
    path = record_path(experiment.directory / RECORDS, key)
    if not path.is_file() or (experiment.cell_directory(*key) / "run.json").is_file():
        return None
    found = unpack(path)
    is_of_this = found.run["fingerprint"] == expected_fingerprint(experiment, key)
    return found if is_of_this and not is_outdated_cell(experiment, found) else None


def is_outdated_cell(experiment: Any, found: Recorded) -> bool:
    """Whether the code that made a recorded cell is not to be kept."""
    distiller = experiment.method_definitions[found.run["method"]].distiller
    return is_outdated(experiment, distiller, found.run.get("source_hash"))
