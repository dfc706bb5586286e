"""Whether what has been made is of the code and data that now stand, and what follows from that.

A run records the hash of its sources when it starts. Where they have been edited since, the key
``stale`` decides: its cells are kept, and tables tell of it, or they are made anew. A method of the
user's own is always made anew: its file is what the user is working on. So is what was made of
other files of data, whatever the key says: seeds of different data are not paired.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manifold.settings.data_files import is_of_files, is_other
from manifold.settings.experiment import Experiment
from manifold.settings.recorded import Key, expected_fingerprint
from manifold.settings.sources import PROJECT, job_hash, source_hash

RECORDS = ("run.json", "probes.json", "maps.json")  # the files of outputs that tell what made them


def is_followed(experiment: Experiment, module: str) -> bool:
    """Whether what a module's earlier code made is made anew.

    Args:
        module: the name of a module, or ``module:Class``.
    """
    return is_users(module) or experiment.stale == "retrain"


def is_users(module: str) -> bool:
    """Whether a module is the user's own."""
    return module.partition(":")[0].partition(".")[0] not in PROJECT


def is_outdated(experiment: Experiment, distiller: str, made_by: str | None) -> bool:
    """Whether what sources of this hash made of a method is to be made anew for its code."""
    return made_by != source_hash(distiller) and is_followed(experiment, distiller)


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
    made = read_record(folder / "run.json") or {}
    distiller = experiment.method_definitions["none"].distiller
    is_of_old_code = "source_hash" in made and is_outdated(
        experiment, distiller, made["source_hash"]
    )
    return is_of_old_code or is_other((read_record(folder / record) or {}).get("data_digest"), data)


def is_job_made_anew(
    experiment: Experiment,
    module: str,
    method: str | None,
    outputs: Iterable[Path],
    data: str | None,
) -> bool:
    """Whether a study's job made its outputs of other code or data than they are to be of.

    Args:
        method: of the cells that the job makes, if it makes cells.

    Raises:
        UserError: the module is not Python.
    """
    distiller = method and experiment.method_definitions[method].distiller
    job_hash(module)  # whether there are records or not
    records = [read_record(path) for path in outputs if path.name in RECORDS]
    return any(
        is_other(record.get("data_digest"), data)
        or (
            is_outdated(experiment, distiller, record.get("source_hash"))
            if distiller
            else is_outdated_job(experiment, module, record.get("source_hash"))
        )
        for record in records
        if record
    )


def unrecorded_code(module: str, outputs: Iterable[Path]) -> str | None:
    """The hash of a job's code, where it is the user's and none of its outputs records it."""
    is_recorded = any(path.name in RECORDS for path in outputs)
    return job_hash(module) if is_users(module) and not is_recorded else None


def is_outdated_job(experiment: Experiment, module: str, made_by: str | None) -> bool:
    """Whether what sources of this hash made of a study's job is to be made anew for its code."""
    return made_by != job_hash(module) and is_followed(experiment, module)


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
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
