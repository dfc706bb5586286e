"""Keep a run: copy the files of its studies to ``results/published/NAME``.

``python -m benchmarks publish --config scale=mini`` also writes ``docs/results.md`` from what is
published of the default scale, and puts Table 1 in short into the README and what whole runs took
into ``docs/running.md``, between their markers, so that no number there is typed by hand. Of a run
on data that nobody else has, ``--times-alone`` keeps what it took, and no table.
"""

import shutil
from pathlib import Path

import pandas as pd

from benchmarks.evidence.records import finished, keys, write_records
from benchmarks.evidence.study import Study
from benchmarks.evidence.times import TIMES, times_table
from benchmarks.evidence.words import MISSING, in_epochs, readable_interval
from benchmarks.table1 import TEACHER
from manifold.errors import UserError
from manifold.files import write_atomic, write_text
from manifold.settings import ROOT, Experiment
from manifold.settings.recorded import RECORDS
from manifold.settings.resolve import experiment_text
from manifold.training import command

PUBLISHED = ROOT / "results" / "published"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
RUNNING = ROOT / "docs" / "running.md"
SHOWN_SCALE = "mini"  # the scale that the docs show: the default
IN_README = "table1"  # the study that the README shows in short
BESIDE = ("preflight.json", TIMES)  # of the run, kept with its tables


def publish(experiment: Experiment, times_alone: bool = False) -> list[Path]:
    """Copy what the run has made, study by study, with the records of its cells.

    Args:
        times_alone: copy what the run took, and nothing else.

    Raises:
        UserError: there is nothing to publish.
    """
    complete = [
        study for study in experiment.studies.values() if all(map(Path.is_file, study.files()))
    ]
    if not complete:
        raise UserError(
            f"{experiment.directory} holds no complete study; let snakemake make one first"
        )
    tables = [path for study in complete for path in study.files()]
    beside = [experiment.directory / name for name in BESIDE]
    paths = [experiment.directory / TIMES] if times_alone else [*tables, *beside]
    copies = []
    if not times_alone and any(finished(experiment, key) for key in keys(experiment)):
        copies += write_records(experiment, PUBLISHED / experiment.name / RECORDS)
    for path in filter(Path.is_file, paths):
        copy = PUBLISHED / experiment.name / path.name
        write_atomic(copy, lambda partial, path=path: shutil.copyfile(path, partial))
        copies.append(copy)
    if not times_alone:  # with the keys that the tables were written by
        text = experiment_text(experiment.replaced(results="results"))
        copies.append(PUBLISHED / experiment.name / "experiment.yaml")
        write_text(copies[-1], text)
    return copies


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
        files = ", ".join(f"[{name}]({here}/{name})" for name in kept)
        parts += [
            f"## {study.title}",
            f"*{study.question}*",
            f"![{study.title}]({here}/{study.name}.png)",
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
    return (
        f"{experiment.description}; recipe {first['recipe']}, "
        f"{in_epochs(int(first['epochs']))}, {first['n']} seeds, "
        f"{100 * experiment.statistics.confidence:g} % intervals."
        f"{teacher}\n\n{shown.to_markdown(index=False)}"
    )


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


def main() -> None:
    parser = command.parser("benchmarks publish", __doc__)
    parser.add_argument("--times-alone", action="store_true", help="keep times, and no table")
    options = parser.parse_args()
    experiment = command.experiment(options)
    publish(experiment, options.times_alone)
    update_readme(RUNNING, "times", times_table(PUBLISHED))
    if not options.times_alone:
        from benchmarks.evidence.report import REPORT, page  # which shows what this module makes

        folder = PUBLISHED / experiment.name
        write_text(folder / REPORT, page(experiment, folder))
    if experiment.name == SHOWN_SCALE and not options.times_alone:
        studies, published = list(experiment.studies.values()), PUBLISHED / SHOWN_SCALE
        write_text(PAGE, results_page(studies, published))
        rows = pd.read_csv(published / f"{IN_README}.csv")
        update_readme(README, IN_README, in_short(rows, experiment))
