"""What is to be made anew, since it was made of other code or data than now stand.

Which code is old says ``made_by``. What was made of other files of data is made anew whatever the
key ``stale`` says: seeds of different data are not paired.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manifold.files import write_text
from manifold.settings.data_files import is_of_files, is_other
from manifold.settings.experiment import Experiment
from manifold.settings.made_by import is_hash, is_old_code, is_outdated, read_record
from manifold.settings.recorded import Key, expected_fingerprint
from manifold.settings.sources import is_projects, job_hash, source_hash

RECORDS = ("run.json", "probes.json", "maps.json")  # the files of outputs that tell what made them


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
    made_by = _code_of(_records_among([folder / "run.json"]))
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

    Which code made them their records say, but for a user's job: what is in its files is its own.

    Args:
        method: of the cells that the job makes, if it makes cells.

    Raises:
        UserError: the module is not Python.
    """
    now = code_of_job(experiment, module, method)  # records or not
    records = _records_among(outputs)
    if any(is_other(record.get("data_digest"), data) for record in records):
        return True
    if made_by := _code_told_by(records, module):
        return any(is_old_code(experiment, code, now) for code in made_by)
    return is_made_by_old_code(experiment, now, outputs)


def code_of_job(experiment: Experiment, module: str, method: str | None) -> str:
    """The hash of the code of a study's job, as it now stands: of its method's too, if it has one.

    Raises:
        UserError: a module is not Python.
    """
    if method is None:
        return job_hash(module)
    return source_hash(experiment.method_definitions[method].distiller, module)


def is_made_by_old_code(experiment: Experiment, now: str, outputs: list[Path]) -> bool:
    """Whether outputs that hold no record of their code are to be made anew for it.

    Where it is not known, they are, if ``stale`` asks for what is old.

    Args:
        now: the hash of the code that makes them.
    """
    told = code_file(outputs[0])
    made_by = told.read_text(encoding="utf-8", errors="replace") if told.is_file() else None
    return outputs[0].exists() and is_old_code(experiment, made_by, now)


def tell_code(outputs: list[Path], made_by: str) -> None:
    """Write down, beside the first of a job's outputs, which code made them."""
    write_text(code_file(outputs[0]), made_by)


def tell_code_of_job(module: str, outputs: list[Path], made_by: str) -> None:
    """The same of a study's job, unless its records say it."""
    if not _code_told_by(_records_among(outputs), module):
        tell_code(outputs, made_by)


def code_file(output: Path) -> Path:
    """Where the hash of the code stands that made an output: hidden, beside it."""
    return output.with_name(f".{output.name}.source_hash")


def _records_among(outputs: Iterable[Path]) -> list[dict[str, Any]]:
    return [read_record(path) or {} for path in outputs if path.name in RECORDS]


def _code_told_by(records: list[dict[str, Any]], module: str) -> list[str]:
    """What the records of a job say of its code; a user's say what the user likes."""
    return _code_of(records) if is_projects(module) else []


def _code_of(records: list[dict[str, Any]]) -> list[str]:
    codes = [record.get("source_hash") for record in records]
    return [code for code in codes if is_hash(code)]


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
