"""Which results of a study's job stay as they are: those of the code that they are to be of."""

import os
import sys
from pathlib import Path

from manifold.settings import Experiment
from manifold.settings.data_files import is_other
from manifold.settings.made_by import is_outdated_job
from manifold.settings.sources import job_hash
from manifold.training.records import is_complete, read_run


def is_kept(
    experiment: Experiment,
    module: str,
    directory: Path,
    files: tuple[str, ...],
    fingerprint: str,
    data: str | None = None,
) -> bool:
    """Whether a folder holds a job's result of this very configuration, and of its code and data.

    Args:
        module: the job's, whose sources made the result.
        files: of the result; the last is the record that holds ``fingerprint`` and
            ``source_hash``.
        data: the digest of the files that it is to be of, where they may change.
    """
    if not is_complete(directory, files, files[-1], fingerprint):
        return False
    record = read_run(directory / files[-1])
    if is_other(record.get("data_digest"), data):
        print(f"{directory} was made of other data: it is made anew", file=sys.stderr)
        return False
    made_by = record.get("source_hash")
    if is_outdated_job(experiment, module, made_by):
        return False
    if made_by != job_hash(module):
        print(
            f"{directory} was made by other code than now stands; --config stale=retrain makes it "
            "anew",
            file=sys.stderr,
        )
    return True


def keep(directory: Path, files: tuple[str, ...]) -> None:
    """Say that a result stays, and date it anew: it is not older than what was only touched."""
    print(f"{directory} is complete", file=sys.stderr)
    for name in files:
        os.utime(directory / name)
