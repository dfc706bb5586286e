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

RECORDS = ("run.json", "probes.json")  # the files of outputs that tell what made them


def is_followed(experiment: Experiment, module: str) -> bool:
    """Whether what a module's earlier code made is made anew.

    Args:
        module: the name of a module, or ``module:Class``.
    """
    is_users = module.partition(":")[0].partition(".")[0] not in PROJECT
    return is_users or experiment.stale == "retrain"


def is_outdated(experiment: Experiment, distiller: str, made_by: str | None) -> bool:
    """Whether what sources of this hash made of a method is to be made anew for its code."""
    return made_by != source_hash(distiller) and is_followed(experiment, distiller)


def is_made_anew(experiment: Experiment, key: Key, data: str | None) -> bool:
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


def planned_sources(
    experiment: Experiment, module: str, current: str, records: Iterable[Path], data: str | None
) -> list[list[str | None]]:
    """What Snakemake compares of the code and data behind outputs: another value plans them again.

    Of the code of outputs that are kept that is what their records say, so that nothing is planned;
    of those that are followed, what now stands.

    Args:
        module: what makes the outputs, or ``module:Class``.
        current: the hash of its sources.
        records: of the outputs.
        data: the digest of the files that they are made of.
    """
    found = []
    for path in records:
        record = read_record(path)
        is_kept = record is not None and not is_followed(experiment, module)
        code = record.get("source_hash") if is_kept else current
        found.append([code, planned_data(record, data)])
    return found


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


def planned_sources_of_cells(
    experiment: Experiment, method: str, records: Iterable[Path], data: str | None
) -> list[list[str | None]]:
    """``planned_sources`` of cells of a method."""
    distiller = experiment.method_definitions[method].distiller
    return planned_sources(experiment, distiller, source_hash(distiller), records, data)


def planned_sources_of_teacher(
    experiment: Experiment, pair: str, record: str, data: str | None
) -> list[list[str | None]]:
    """``planned_sources`` of what is made of a pair's teacher.

    Args:
        record: the name of the file that holds the digest of the data that it was made of.
    """
    folder = experiment.teacher_directory(pair)
    ((code, _),) = planned_sources_of_cells(experiment, "none", [folder / "run.json"], None)
    return [[code, planned_data(read_record(folder / record), data)]]


def planned_sources_of_job(
    experiment: Experiment,
    module: str,
    method: str | None,
    outputs: Iterable[Path],
    data: str | None,
) -> list[list[str | None]]:
    """``planned_sources`` of a study's job.

    Args:
        method: of the cells that the job makes, if it makes cells.
    """
    records = [path for path in outputs if path.name in RECORDS]
    if method is not None:
        return planned_sources_of_cells(experiment, method, records, data)
    return planned_sources(experiment, module, job_hash(module), records, data)


def is_outdated_job(experiment: Experiment, module: str, made_by: str | None) -> bool:
    """Whether what sources of this hash made of a study's job is to be made anew for its code."""
    return made_by != job_hash(module) and is_followed(experiment, module)


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
