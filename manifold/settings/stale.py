"""Whether what has been made is of the code and data that now stand, and what follows from that.

A run records the hash of its sources when it starts. Where they have been edited since, the key
``stale`` decides: its cells are kept, and tables tell of it, or they are made anew. What the user's
own files have shaped is always made anew when they have changed: they are what the user is working
on. So is what was made of other files of data, whatever the key says: seeds of different data are
not paired.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manifold.files import write_text
from manifold.settings.data_files import is_of_files, is_other
from manifold.settings.experiment import Experiment
from manifold.settings.recorded import Key, expected_fingerprint
from manifold.settings.sources import is_projects, job_hash, source_hash, users_part

RECORDS = ("run.json", "probes.json", "maps.json")  # the files of outputs that tell what made them


def is_old_code(experiment: Experiment, module: str, made_by: str | None, now: str) -> bool:
    """Whether what code of one hash made is to be made anew, since it now has another.

    Args:
        module: that was asked for, ``module`` or ``module:Class``: the project's or a user's.
        made_by: None where it is not known.
    """
    if made_by == now:
        return False
    is_of_user = not is_projects(module)
    is_users_changed = is_of_user and users_part(made_by or "") != users_part(now)
    return is_users_changed or experiment.stale == "retrain"


def is_outdated(experiment: Experiment, distiller: str, made_by: str | None) -> bool:
    """Whether what sources of this hash made of a method is to be made anew for its code."""
    return is_old_code(experiment, distiller, made_by, source_hash(distiller))


def is_cell_made_anew(experiment: Experiment, key: Key, data: str | None) -> bool:
    """Whether a finished cell is something else than what is asked for, so that it is made anew.

    One that is not there, or whose teacher is not, is made anyway: of it nothing is said.

    Args:
        data: the digest of the files that it is to be trained on.

    Raises:
        UserError: the method's file is not Python.
    """
    distiller = experiment.method_definitions[key[3]].distiller
    source_hash(distiller)  # whether there is a record or not
    record = read_record(experiment.cell_directory(*key) / "run.json")
    expected = record and expected_fingerprint(experiment, key)
    return expected is not None and (
        record.get("fingerprint") != expected
        or is_outdated(experiment, distiller, record.get("source_hash"))
        or is_other(record.get("data_digest"), data)
    )


def is_teacher_made_anew(experiment: Experiment, pair: str, record: str, data: str | None) -> bool:
    """Whether what is made of a pair's teacher is of other code or data than it is to be of.

    Args:
        record: the name of the file that holds the digest of the data that it was made of.
    """
    folder = experiment.teacher_directory(pair)
    made_by = recorded_code([folder / "run.json"])
    distiller = experiment.method_definitions["none"].distiller
    is_of_old_code = any(is_outdated(experiment, distiller, code) for code in made_by)
    return is_of_old_code or is_other((read_record(folder / record) or {}).get("data_digest"), data)


def is_job_made_anew(
    experiment: Experiment,
    module: str,
    method: str | None,
    outputs: list[Path],
    data: str | None,
) -> bool:
    """Whether a study's job made its outputs of other code or data than they are to be of.

    Args:
        method: of the cells that the job makes, if it makes cells.

    Raises:
        UserError: the module is not Python.
    """
    distiller = method and experiment.method_definitions[method].distiller
    now = source_hash(distiller) if distiller else job_hash(module)  # records or not
    records = _records_among(outputs)
    if any(is_other(record.get("data_digest"), data) for record in records):
        return True
    if made_by := _code_of(records):
        return any(is_old_code(experiment, distiller or module, code, now) for code in made_by)
    return is_made_by_old_code(experiment, module, outputs)


def is_made_by_old_code(experiment: Experiment, module: str | None, outputs: list[Path]) -> bool:
    """Whether outputs that hold no record of their code are to be made anew for it.

    Where it is not known, they are, if ``stale`` asks for what is old.

    Args:
        module: that makes them; None: one that is not followed.
    """
    if module is None:
        return False
    now, told = job_hash(module), code_file(outputs[0])
    made_by = told.read_text(encoding="utf-8") if told.is_file() else None
    return outputs[0].exists() and is_old_code(experiment, module, made_by, now)


def tell_code(outputs: list[Path], made_by: str) -> None:
    """Write down, beside the first of a job's outputs, which code made them."""
    write_text(code_file(outputs[0]), made_by)


def code_file(output: Path) -> Path:
    """Where the hash of the code stands that made an output: hidden, beside it."""
    return output.with_name(f".{output.name}.source_hash")


def recorded_code(outputs: Iterable[Path]) -> list[str]:
    """The hashes of code that the records among a job's outputs hold, if any do."""
    return _code_of(_records_among(outputs))


def _records_among(outputs: Iterable[Path]) -> list[dict[str, Any]]:
    return [read_record(path) or {} for path in outputs if path.name in RECORDS]


def _code_of(records: list[dict[str, Any]]) -> list[str]:
    codes = [record.get("source_hash") for record in records]
    return [code for code in codes if is_hash(code)]


def is_hash(found: Any) -> bool:
    """Whether it is a hash of code, and not what a user's record calls so."""
    return isinstance(found, str) and bool(re.fullmatch(r"[0-9a-f]{64}(\+[0-9a-f]{64})?", found))


def is_outdated_job(experiment: Experiment, module: str, made_by: str | None) -> bool:
    """Whether what sources of this hash made of a study's job is to be made anew for its code."""
    return is_old_code(experiment, module, made_by, job_hash(module))


def planned_data(record: dict[str, Any] | None, data: str | None) -> str | None:
    """The digest of the files behind an output.

    None of what was made before it was recorded, or of data that cannot change; what is recorded,
    where the files are gone. Neither is planned again.
    """
    if record is None:
        return data
    made_of = record.get("data_digest")
    if not is_of_files(made_of):
        return None
    return made_of if data is None else data


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
