"""Results of a study's job of which only the record is here, as of cells: no weights.

``records/FOLDER.json`` below an experiment's folder holds the run.json of a result whose files
would stand in FOLDER, what the job says shapes it, and a hash of both. A table is made from it as
from the result itself. Nothing here needs torch: a plan asks.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.evidence.study import Job, Study
from manifold.errors import UserError
from manifold.settings import CELL_FILES, fingerprint, to_plain
from manifold.settings.made_by import is_outdated_job, read_record
from manifold.settings.recorded import RECORDS, Key, digest_of, packed, recorded, unpacked
from manifold.training.records import read_run

Wildcards = dict[str, Any]  # of a job's outputs, by name
READ_NUMBERS = ("ap", "ap50", "ap75", "ap_random_classes")  # of each kind of result
READ = {  # what else a table reads of a run.json
    **dict.fromkeys(("fingerprint", "source_hash"), str),
    **dict.fromkeys(("configuration", "result", "environment"), dict),
    **dict.fromkeys(("wall_seconds", "epochs", "images_seen"), (int, float)),
    **dict.fromkeys(("parameters", "backbone_parameters"), int),
    "validation": list,
}
CONFIGURED = {"settings": dict, "student_sha256": (str, type(None)), "data": dict}


@dataclass(frozen=True)
class Result:
    """What is known of a result without its weights and predictions.

    Attributes:
        study: whose job made it.
        wildcards: those of the job.
        identity: what the job says shapes it, beside the bytes of what it reads.
        run: its run.json.
    """

    study: str
    wildcards: Wildcards
    identity: Any
    run: dict[str, Any]

    def in_words(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.wildcards.items())


def is_of_result(path: Path) -> bool:
    """Whether a file is to be such a record, and not that of a cell."""
    return (read_record(path) or {}).keys() >= {"study", "wildcards"}


def pack_result(result: Result) -> str:
    return packed(asdict(result))


def unpack_result(path: Path) -> Result:
    """Read a record.

    Raises:
        UserError: it is damaged, altered, not of one result, or lacks what a table reads.
    """
    status = path.stat()
    return _unpacked(path, status.st_mtime_ns, status.st_size)


@cache
def _unpacked(path: Path, *stamp: int) -> Result:
    """A record, read once as long as it is the same: a plan asks for each several times."""
    found = Result(**unpacked(path, set(Result.__dataclass_fields__)))
    fault = _fault_of(found)
    if fault:
        raise UserError(f"{path} is no record of a result: {fault}; leave it out")
    if found.run["fingerprint"] != fingerprint(found.run["configuration"]):
        raise UserError(f"{path} was altered: its configuration is not that of its fingerprint")
    return found


def _fault_of(found: Result) -> str:
    """What a record lacks of what is read of it."""
    if not (isinstance(found.study, str) and isinstance(found.wildcards, dict)):
        return "it does not say of what it is"
    if not isinstance(found.run, dict):
        return "it holds no run"
    for what, kinds in ((found.run, READ), (found.run.get("configuration"), CONFIGURED)):
        for name, kind in kinds.items():
            if name not in what or not isinstance(what[name], kind):
                return f"its {name} is {what.get(name)!r}"
    if not isinstance(found.run["environment"].get("git_commit"), (str, type(None))):
        return "its environment names no commit"
    for kind, numbers in found.run["result"].items():
        if not isinstance(numbers, dict) or not numbers:
            return f"its result of {kind} is {numbers!r}"
        for name in READ_NUMBERS:
            number = numbers.get(name)
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                return f"its {name} of {kind} is {number!r}"
    others = [name for name, value in found.wildcards.items() if found.run.get(name) != value]
    if others:
        return f"its {others[0]} is not that of its run"
    return "" if found.run["result"] else "it holds no number"


class WithResults(Study):
    """A study whose table is made of the run.json of each of a job's results.

    So a result's weights and predictions may be somewhere else, and its record here.
    """

    recorded_job: ClassVar[str]
    """The job; the last of its outputs is the run.json."""

    # ---- what it declares --------------------------------------------------------------------

    def needed_results(self) -> Iterator[Wildcards]:
        """Of every result that the table needs."""
        raise NotImplementedError

    def students_of(self, result: Result) -> dict[Key, str]:
        """The cells whose students a result was made of, and the SHA-256 of each student."""
        raise NotImplementedError

    def other_inputs(self, result: Result) -> str:
        """What is here, beside students, and other than a result was made of; "" for nothing."""
        raise NotImplementedError

    def is_whole(self, wildcards: Wildcards) -> bool:
        """Whether all files of a result are here, unharmed, of this very configuration."""
        raise NotImplementedError

    # ---- what follows ------------------------------------------------------------------------

    @property
    def recordable(self) -> Job:
        return next(job for job in self.jobs() if job.name == self.recorded_job)

    def outputs(self, wildcards: Wildcards) -> list[Path]:
        """The files of a result, its run.json the last."""
        patterns = self.recordable.outputs
        return [self.experiment.directory / each.format(**wildcards) for each in patterns]

    def result_path(self, root: Path, wildcards: Wildcards) -> Path:
        """Where the record of a result stands below a folder of records."""
        folder = self.outputs(wildcards)[-1].parent.relative_to(self.experiment.directory)
        return root / folder.with_name(f"{folder.name}.json")

    def own_result_path(self, wildcards: Wildcards) -> Path:
        """The same below the experiment's own records."""
        return self.result_path(self.experiment.directory / RECORDS, wildcards)

    def identity_of(self, wildcards: Wildcards) -> Any:
        return to_plain(self.recordable.identity(**wildcards))

    def recorded_result(self, wildcards: Wildcards) -> Result | None:
        """The record that stands for a result; None where it is here, or there is none of it.

        One of another configuration, of another student or other images than are here or of code
        that is not to be kept is none.

        Raises:
            UserError: the record is damaged or altered.
        """
        path = self.own_result_path(wildcards)
        if not path.is_file() or self.outputs(wildcards)[-1].is_file():
            return None
        found = unpack_result(path)
        stands = (
            self.is_of_this_configuration(found)
            and not self.is_outdated(found)
            and self.is_of_these_students(found)
            and not self.other_inputs(found)
        )
        return found if stands else None

    def is_of_this_configuration(self, found: Result) -> bool:
        return fingerprint(found.identity) == fingerprint(self.identity_of(found.wildcards))

    def is_outdated(self, found: Result) -> bool:
        """Whether the code that made a result is not to be kept."""
        module = self.recordable.run.partition(":")[0]
        return is_outdated_job(self.experiment, module, found.run["source_hash"])

    def is_of_these_students(self, found: Result) -> bool:
        """Whether the students that a result was made of are those that are here, or recorded."""
        made_of = self.students_of(found)
        return all(self.student_digest(key) == digest for key, digest in made_of.items())

    def student_digest(self, key: Key) -> str | None:
        """The SHA-256 of a cell's student, from its record where that is all; None of neither."""
        weights = self.experiment.cell_directory(*key) / CELL_FILES[0]
        if (found := recorded(self.experiment, key)) is not None:
            return found.run["files"][weights.name]
        return digest_of(weights) if weights.is_file() else None

    def result_files(self) -> list[Path]:
        """The files of every result; its record, where that is all that is here."""
        paths = []
        for wildcards in self.needed_results():
            is_recorded = self.recorded_result(wildcards) is not None
            paths += [self.own_result_path(wildcards)] if is_recorded else self.outputs(wildcards)
        return paths

    def run_of(self, wildcards: Wildcards) -> dict[str, Any] | None:
        """The run.json of a result, or what its record holds of it; None where neither is here.

        Raises:
            UserError: it is damaged.
        """
        path = self.outputs(wildcards)[-1]
        if path.is_file():
            return read_run(path)
        found = self.recorded_result(wildcards)
        return None if found is None else found.run

    def finished_result(self, wildcards: Wildcards) -> Result | None:
        """What is known of a result that is here, whole or as a record; None where it is not."""
        if not self.outputs(wildcards)[-1].is_file():
            return self.recorded_result(wildcards)
        if not self.is_whole(wildcards):
            return None
        run = self.run_of(wildcards)
        return Result(self.name, wildcards, self.identity_of(wildcards), run)
