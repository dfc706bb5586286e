"""Whether what has been made is of the code that now stands, and what follows from that.

A run records the hash of its sources when it starts. Where they have been edited since, the key
``stale`` decides: its cells are kept, and tables tell of it, or they are made anew. A method of the
user's own is always made anew: its file is what the user is working on.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manifold.settings.experiment import Experiment
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


def planned_sources(
    experiment: Experiment, module: str, current: str, records: Iterable[Path], data: str | None
) -> list[list[str | None]]:
    """What Snakemake compares of the code and data behind outputs: another value plans them again.

    Of outputs that are kept that is what their records say, so that nothing is planned; of those
    that are followed, what now stands.

    Args:
        module: what makes the outputs, or ``module:Class``.
        current: the hash of its sources.
        records: of the outputs.
        data: the digest of the data as they are; None where changed data plan nothing.
    """
    found = []
    for path in records:
        record = _read(path)
        is_kept = record is not None and not is_followed(experiment, module)
        is_of_other_data = record is not None and data not in (None, record.get("data_digest"))
        found.append(
            [record.get("source_hash") if is_kept else current, data if is_of_other_data else None]
        )
    return found


def planned_sources_of_cells(
    experiment: Experiment, method: str, records: Iterable[Path], data: str | None
) -> list[list[str | None]]:
    """``planned_sources`` of cells of a method."""
    distiller = experiment.method_definitions[method].distiller
    return planned_sources(experiment, distiller, source_hash(distiller), records, data)


def planned_sources_of_job(
    experiment: Experiment, module: str, method: str | None, outputs: Iterable[Path]
) -> list[list[str | None]]:
    """``planned_sources`` of a study's job, whose data are among its inputs.

    Args:
        method: of the cells that the job makes, if it makes cells.
    """
    records = [path for path in outputs if path.name in RECORDS]
    if method is not None:
        return planned_sources_of_cells(experiment, method, records, None)
    return planned_sources(experiment, module, job_hash(module), records, None)


def is_outdated_job(experiment: Experiment, module: str, made_by: str | None) -> bool:
    """Whether what sources of this hash made of a study's job is to be made anew for its code."""
    return made_by != job_hash(module) and is_followed(experiment, module)


def _read(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
