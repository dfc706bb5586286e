"""Results of a study's job of which only the record is here, as of cells: no weights.

``records/FOLDER.json`` below an experiment's folder holds the run.json of a result whose files
would stand in FOLDER, what the job says shapes it, and a hash of both. A table is made from it as
from the result itself. Nothing here needs torch: a plan asks.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.evidence.study import Job, Study
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import CELL_FILES, fingerprint, to_plain
from manifold.settings.made_by import is_outdated_job, read_record
from manifold.settings.recorded import RECORDS, Key, packed, recorded, unpacked
from manifold.training.records import read_run

Row = dict[str, Any]  # the wildcards of a result, by name


@dataclass(frozen=True)
class Result:
    """What is known of a result without its weights and predictions.

    Attributes:
        study: whose job made it.
        row: the wildcards of the job.
        identity: what the job says shapes it, beside the bytes of what it reads.
        run: its run.json.
    """

    study: str
    row: Row
    identity: Any
    run: dict[str, Any]

    def in_words(self) -> str:
        return f"{self.study} of {', '.join(f'{name} {value}' for name, value in self.row.items())}"


KEYS = set(Result.__dataclass_fields__)


def is_of_result(path: Path) -> bool:
    """Whether a file is to be such a record, and not that of a cell."""
    return (read_record(path) or {}).keys() >= {"study", "row"}


def pack_result(result: Result) -> str:
    return packed(asdict(result))


def unpack_result(path: Path) -> Result:
    """Read a record.

    Raises:
        UserError: it is damaged, altered, or not of one result.
    """
    found = Result(**unpacked(path, KEYS))
    try:
        is_altered = found.run["fingerprint"] != fingerprint(found.run["configuration"])
        _ = found.run["result"], found.row["seed"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no record of a result ({error!r}); leave it out") from error
    if is_altered:
        raise UserError(f"{path} was altered: its configuration is not that of its fingerprint")
    return found


class WithResults(Study):
    """A study whose table is made of the run.json of each of a job's results, and of no weights."""

    recorded_job: ClassVar[str]
    """The job; the last of its outputs is the run.json."""

    # ---- what it declares --------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """The wildcards of every result that the table needs."""
        raise NotImplementedError

    def students_of(self, result: Result) -> dict[Key, str]:
        """The cells whose students a result was made of, and the SHA-256 of each student."""
        raise NotImplementedError

    def is_whole(self, row: Row) -> bool:
        """Whether all files of a result are here, unharmed, of this very configuration."""
        raise NotImplementedError

    # ---- what follows ------------------------------------------------------------------------

    @property
    def recordable(self) -> Job:
        return next(job for job in self.jobs() if job.name == self.recorded_job)

    def outputs(self, row: Row) -> list[Path]:
        """The files of a result; the record of it is the last."""
        return [self.experiment.directory / each.format(**row) for each in self.recordable.outputs]

    def result_path(self, root: Path, row: Row) -> Path:
        """Where the record of a result stands below a folder of records."""
        folder = self.outputs(row)[-1].parent.relative_to(self.experiment.directory)
        return root / folder.with_name(f"{folder.name}.json")

    def identity_of(self, row: Row) -> Any:
        return to_plain(self.recordable.identity(**row))

    def recorded_result(self, row: Row) -> Result | None:
        """The record that stands for a result; None where it is here, or there is none of it.

        One of another configuration, of another student than is here or of code that is not to be
        kept is none.

        Raises:
            UserError: the record is damaged or altered.
        """
        path = self.result_path(self.experiment.directory / RECORDS, row)
        if not path.is_file() or self.outputs(row)[-1].is_file():
            return None
        found = unpack_result(path)
        is_of_this = fingerprint(found.identity) == fingerprint(self.identity_of(row))
        return found if is_of_this and not self.is_old(found) and self.is_of_these(found) else None

    def is_old(self, found: Result) -> bool:
        """Whether the code that made a result is not to be kept."""
        module = self.recordable.run.partition(":")[0]
        return is_outdated_job(self.experiment, module, found.run.get("source_hash"))

    def is_of_these(self, found: Result) -> bool:
        """Whether the students that a result was made of are those that are here, or recorded."""
        made_of = self.students_of(found)
        return all(self.student_digest(key) == digest for key, digest in made_of.items())

    def student_digest(self, key: Key) -> str | None:
        """The SHA-256 of a cell's student, from its record where that is all; None of neither."""
        weights = self.experiment.cell_directory(*key) / CELL_FILES[0]
        if (found := recorded(self.experiment, key)) is not None:
            return found.run["files"][weights.name]
        return sha256(weights) if weights.is_file() else None

    def result_files(self) -> list[Path]:
        """The files of every result; its record, where that is all that is here."""
        root, paths = self.experiment.directory / RECORDS, []
        for row in self.rows():
            is_recorded = self.recorded_result(row) is not None
            paths += [self.result_path(root, row)] if is_recorded else self.outputs(row)
        return paths

    def run_of(self, row: Row) -> dict[str, Any] | None:
        """The run.json of a result, or what its record holds of it; None where neither is here.

        Raises:
            UserError: it is damaged.
        """
        path = self.outputs(row)[-1]
        if path.is_file():
            return read_run(path)
        found = self.recorded_result(row)
        return None if found is None else found.run

    def finished_result(self, row: Row) -> Result | None:
        """What is known of a result that is here, whole or as a record; None where it is not."""
        if self.outputs(row)[-1].is_file():
            is_this, run = self.is_whole(row), self.run_of(row)
            return Result(self.name, row, self.identity_of(row), run) if is_this else None
        return self.recorded_result(row)
