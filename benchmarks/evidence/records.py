"""Records of finished cells, without weights: ``python -m benchmarks records FOLDER``.

A small file for every finished cell that the studies need, for the teachers as they were measured,
and for every detector; ``python -m benchmarks merge`` takes them in, on this machine or on another.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.evidence.results import WithResults, pack_result
from manifold.errors import UserError
from manifold.files import write_text
from manifold.settings import CELL_FILES, Experiment
from manifold.settings.recorded import (
    METRICS,
    Key,
    Recorded,
    expected_fingerprint,
    pack,
    packed,
    record_path,
    recorded,
)
from manifold.training import command
from manifold.training.records import evaluation_path, is_complete, read_run

TEACHERS = "teachers"  # of a folder of records


def write_records(experiment: Experiment, folder: Path) -> list[Path]:
    """Write the records of all finished cells that the studies need, of teachers and of results.

    Raises:
        UserError: there is no cell; or a package is missing that tells whether a result is whole.
    """
    written = []
    for key in keys(experiment):
        if (found := finished(experiment, key)) is not None:
            written.append(record_path(folder, key))
            write_text(written[-1], pack(found))
    if not written:
        raise UserError(
            f"{experiment.directory} holds no finished cell of this configuration; let snakemake "
            "make some first"
        )
    for pair in dict.fromkeys(path.relative_to(folder).parts[0] for path in written):
        if (path := evaluation_path(experiment, pair)).is_file():
            written.append(folder / TEACHERS / f"{pair}.json")
            write_text(written[-1], packed({"pair": pair, "evaluation": read_run(path)}))
    for study in studies_with_results(experiment):
        for wildcards in study.needed_results():
            if (result := study.finished_result(wildcards)) is not None:
                written.append(study.result_path(folder, wildcards))
                write_text(written[-1], pack_result(result))
    return written


def left_out(experiment: Experiment, folder: Path, written: list[Path]) -> list[Path]:
    """The results that are here, and of which ``write_records`` has made no record.

    They are of another configuration or folder, damaged, or their student or images are gone.

    Args:
        written: what it returned for this folder.
    """
    return [
        run.parent
        for study in studies_with_results(experiment)
        for wildcards in study.needed_results()
        if (run := study.outputs(wildcards)[-1]).is_file()
        and study.result_path(folder, wildcards) not in written
    ]


def studies_with_results(experiment: Experiment) -> list[WithResults]:
    """The studies that have records of their own jobs' results."""
    return [study for study in experiment.studies.values() if isinstance(study, WithResults)]


def keys(experiment: Experiment) -> Iterator[Key]:
    """Every cell that a study needs, once."""
    return iter(
        dict.fromkeys(key for study in experiment.studies.values() for key in study.needed())
    )


def finished(experiment: Experiment, key: Key) -> Recorded | None:
    """What is known of a cell that is here, whole or as a record; None where it is not."""
    folder, expected = experiment.cell_directory(*key), expected_fingerprint(experiment, key)
    if expected is not None and is_complete(folder, CELL_FILES, "run.json", expected):
        metrics = (folder / METRICS).read_text(encoding="utf-8")
        return Recorded(read_run(folder / "run.json"), metrics)
    return recorded(experiment, key)


def main() -> None:
    parser = command.parser("benchmarks records", __doc__)
    parser.add_argument("folder", type=Path, help="where the records are written")
    options = parser.parse_args()
    experiment = command.experiment(options)
    written = write_records(experiment, options.folder)
    print(f"{len(written)} record(s) in {options.folder}")
    for folder in left_out(experiment, options.folder, written):
        print(
            f"left out: {folder} (of another configuration or folder of results, or its student "
            "or its images are gone, or not those that it was made of)"
        )
