"""Keep a run: copy the files of its studies to ``results/published/NAME``.

``python -m benchmarks publish --config scale=mini`` also writes ``docs/results.md`` from what is
published of the default scale, and puts Table 1 in short into the README and what whole runs took
into ``docs/running.md``, between their markers, so that no number there is typed by hand. Of a run
on data that nobody else has, ``--times-alone`` keeps what it took, and no table. With the tables go
the students of Table 1's first seed, each with its run.json.

``--pages-alone`` copies nothing: it writes anew, of all that is published, the pages that are made
of it. Either ends with the folders' SHA256SUMS.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmarks.evidence import sums
from benchmarks.evidence.markup import markdown_block, markdown_text
from benchmarks.evidence.records import finished, keys, write_records
from benchmarks.evidence.runs import WEIGHTS
from benchmarks.evidence.study import Study
from benchmarks.evidence.times import TIMES, times_table
from benchmarks.evidence.words import MISSING, in_epochs, readable_interval
from benchmarks.table1 import TEACHER
from manifold.errors import Faults, UserError
from manifold.files import sha256, write_atomic, write_directory, write_text
from manifold.settings import ROOT, Experiment, read_yaml, resolve
from manifold.settings.recorded import RECORDS, record_path
from manifold.settings.resolve import experiment_text
from manifold.training import command

PUBLISHED = ROOT / "results" / "published"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
RUNNING = ROOT / "docs" / "running.md"
SHOWN_SCALE = "mini"  # the scale that the docs show: the default
IN_README = "table1"  # the study that the README shows in short
STUDENTS = "students"  # the folder of those that are published
BESIDE = ("preflight.json", TIMES)  # of the run, kept with its tables


def publish(experiment: Experiment, times_alone: bool = False) -> list[Path]:
    """Copy what the run has made, study by study, with the records of its cells.

    Args:
        times_alone: copy what the run took, and nothing else.

    Raises:
        UserError: there is nothing to publish; or what was published before has been altered,
            which new sums would hide.
    """
    refuse_altered([PUBLISHED / experiment.name])
    complete = [
        study for study in experiment.studies.values() if all(map(Path.is_file, study.files()))
    ]
    if not complete:
        raise UserError(
            f"{experiment.directory} holds no complete study; let snakemake make one first"
        )
    (PUBLISHED / experiment.name / sums.SUMS).unlink(missing_ok=True)  # of files that follow anew
    for study in complete:  # what an earlier configuration had made
        for suffix in study.absent():
            (PUBLISHED / experiment.name / f"{study.name}{suffix}").unlink(missing_ok=True)
    tables = [path for study in complete for path in study.files()]
    beside = [experiment.directory / name for name in BESIDE]
    paths = [experiment.directory / TIMES] if times_alone else [*tables, *beside]
    copies = []
    if not times_alone and any(finished(experiment, key) for key in keys(experiment)):
        copies += write_records(experiment, PUBLISHED / experiment.name / RECORDS)
        copies += publish_students(experiment, PUBLISHED / experiment.name / STUDENTS)
    for path in filter(Path.is_file, paths):
        copy = PUBLISHED / experiment.name / path.name
        write_atomic(copy, lambda partial, path=path: shutil.copyfile(path, partial))
        copies.append(copy)
    if not times_alone:  # with the keys that the tables were written by
        text = experiment_text(experiment.replaced(results="results"))
        copies.append(PUBLISHED / experiment.name / "experiment.yaml")
        write_text(copies[-1], text)
    return copies


def publish_students(experiment: Experiment, folder: Path) -> list[Path]:
    """Copy the students of Table 1's first seed, each with its run.json.

    Those that were published before stay where only their records are here; all others go, if
    there is any to copy.
    """
    study = experiment.studies.get(IN_README)
    of_first_seed = [] if study is None else [k for k in study.needed() if k[4] == study.seeds[0]]
    sources = {}
    for key in of_first_seed:
        place = record_path(Path(), key).with_suffix("")
        known = finished(experiment, key)
        for source in (experiment.cell_directory(*key), folder / place):
            path = source / WEIGHTS
            if known and path.is_file() and sha256(path) == known.run["files"][WEIGHTS]:
                sources[place] = source
                break
    if not sources:
        return []

    def copy(partial: Path) -> None:
        for place, source in sources.items():
            (partial / place).mkdir(parents=True)
            for name in (WEIGHTS, "run.json"):
                shutil.copyfile(source / name, partial / place / name)

    write_directory(folder, copy)
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---- what the docs show --------------------------------------------------------------------------


def results_page(studies: list[Study], published: Path) -> str:
    """The page of all studies that are published, from their declarations and their tables.

    Args:
        published: the folder of their files.
    """
    parts = [
        "# Results",
        f"What was published of the scale `{published.name}`, study by study, written by "
        "`python -m benchmarks publish`: the question, the caption, and the words that the "
        "intervals carry. The files hold every number; the folder's `*_seeds.csv` every run.",
    ]
    for study in studies:
        table = published / f"{study.name}.md"
        if not (study.is_evidence and table.is_file()):
            continue
        kept = [path.name for path in study.files() if (published / path.name).is_file()]
        here = f"../results/published/{published.name}"
        figure = f"{study.name}.png"
        files = ", ".join(f"[{name}]({here}/{name})" for name in kept)
        parts += [
            f"## {study.title}",
            f"*{study.question}*",
            *([f"![{study.title}]({here}/{figure})"] if figure in kept else []),
            block(table.read_text(encoding="utf-8"), study.shown),
            f"Files: {files}.",
        ]
    return "\n\n".join(parts) + "\n"


def block(table: str, sections: tuple[str, ...] | None = None) -> str:
    """The part of a published table's .md that the docs show, headings two levels lower.

    Args:
        table: the file's text.
        sections: what is shown below the caption; None: everything below the title.

    Raises:
        UserError: the file lacks a section.
    """
    title, _, body = table.strip().partition("\n\n")
    if sections is not None:
        lead, *parts = body.split("\n## ")
        known = {part.partition("\n")[0]: part.strip() for part in parts}
        for section in sections:
            if section not in known:
                raise UserError(f"{title.strip('# ')!r} has no section {section!r}")
        caption = lead.partition("\n\n")[0]
        body = "\n\n## ".join([caption, *(known[section] for section in sections)])
    return body.replace("\n## ", "\n#### ")


def markers(name: str) -> tuple[str, str]:
    """The README's lines before and after what it shows of a table."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def in_short(rows: pd.DataFrame, experiment: Experiment) -> str:
    """Table 1 for those who have thirty seconds: who is ahead, by the test that decides.

    Args:
        rows: as in table1.csv.
    """
    table = experiment.table1
    baseline = experiment.method_definitions[table.baseline].title
    by_blocks = experiment.studies[IN_README].primary == "blocks"
    if rows.empty or rows["pair"].isna().any():
        raise UserError(f"{IN_README}.csv has no row, or one without its pair; make it anew")
    several = rows["pair"].nunique() > 1
    blocks = [
        (f"**{markdown_text(pair)}.** " if several else "")
        + _of_pair(own, experiment, baseline, by_blocks)
        for pair, own in rows.groupby("pair", sort=False)
    ]
    return "\n\n".join(blocks)


def _of_pair(rows: pd.DataFrame, experiment: Experiment, baseline: str, by_blocks: bool) -> str:
    methods = rows[rows["method"] != TEACHER]
    (reached,) = rows.loc[rows["method"] == TEACHER, "top1_mean"]
    teacher = "" if pd.isna(reached) else f" The teacher reaches {reached:.2f} %."
    shown = pd.DataFrame(
        {
            "Method": row["title"],
            "Top-1 (%)": readable_interval(row, "top1"),
            f"Gain over {baseline}": readable_interval(row, _deciding(row, by_blocks), "+"),
            "Decided": row["decided"] if isinstance(row.get("decided"), str) else MISSING,
        }
        for _, row in methods.iterrows()
    )
    first = methods.iloc[0]
    lead = (
        f"{experiment.description}; recipe {first['recipe']}, "
        f"{in_epochs(int(first['epochs']))}, {first['n']} seeds, "
        f"{100 * experiment.statistics.confidence:g} % intervals.{teacher}"
    )
    return f"{markdown_text(lead)}\n\n{markdown_block(shown)}"


def _deciding(row: pd.Series, by_blocks: bool) -> str:
    """Whose interval belongs to the test that decides: of all methods together, or of the pairs."""
    is_in_blocks = by_blocks and pd.notna(row.get("pooled_gain_mean"))
    return "pooled_gain" if is_in_blocks else "gain"


def update_readme(readme: Path, name: str, shown: str) -> None:
    """Put a block between the markers of its table.

    Raises:
        UserError: the markers are not there.
    """
    begin, end = markers(name)
    before, found, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{readme} lacks the markers {begin} and {end}")
    write_text(readme, f"{before}{begin}\n{shown}\n{end}{after}")


def write_pages(folders: dict[Path, Experiment | None]) -> None:
    """Write the pages that are made of what is published, and the sums of these folders.

    Args:
        folders: whose sums are written, and the page of those whose experiment is known; the docs
            are of all that is published.
    """
    from benchmarks.evidence.report import REPORT, page  # which shows what this module makes

    update_readme(RUNNING, "times", times_table(PUBLISHED))
    for folder, experiment in folders.items():
        sums.write(folder)  # the page may hold the files to them
        if experiment is not None:
            write_text(folder / REPORT, page(experiment, folder))
            if folder.name == SHOWN_SCALE:
                write_text(PAGE, results_page(list(experiment.studies.values()), folder))
                rows = pd.read_csv(folder / f"{IN_README}.csv")
                update_readme(README, IN_README, in_short(rows, experiment))
        sums.write(folder)


def of_a_scale(folder: Path) -> Experiment | None:
    """The scale that a published folder is of; None where no table's settings are in it."""
    kept = folder / "experiment.yaml"
    return resolve({"scale": read_yaml(kept)["scale"]}) if kept.is_file() else None


def refuse_altered(folders: Iterable[Path]) -> None:
    """Refuse to sum up files that are not those that were published; pages are made anew.

    Raises:
        UserError: names them.
    """
    from benchmarks.evidence.report import REPORT

    faults = Faults()
    for folder in folders:
        if (folder / sums.SUMS).is_file():
            for fault in sums.check(folder):
                if not fault.startswith(f"{folder / REPORT} "):
                    faults.add(f"{fault}; restore it, as git has it")
    faults.raise_any()


def main() -> None:
    parser = command.parser("benchmarks publish", __doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--times-alone", action="store_true", help="keep times, and no table")
    what.add_argument("--pages-alone", action="store_true", help="copy nothing, write the pages")
    options = parser.parse_args()
    if options.pages_alone:
        paths = sorted(path for path in PUBLISHED.iterdir() if path.is_dir())
        refuse_altered(paths)
        write_pages({path: of_a_scale(path) for path in paths})
    else:
        experiment = command.experiment(options)
        publish(experiment, options.times_alone)
        folder = PUBLISHED / experiment.name
        # A page shows what the run took: one that was published before is made anew with it.
        write_pages({folder: of_a_scale(folder) if options.times_alone else experiment})
