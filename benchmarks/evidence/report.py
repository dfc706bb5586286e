"""One page of all that a run has made: ``results/NAME/report.html``; no request leaves it.

It is written from the files of the studies as they stand, in the order of the scale, so it takes
seconds, trains nothing, and is the same for a folder of published files. A study that has no files,
or of which one cannot be read, is named and left out.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from benchmarks.evidence import behind, sums
from benchmarks.evidence.anew import differing
from benchmarks.evidence.answer import IN_SHORT, answer, in_other_studies, leaving_out
from benchmarks.evidence.behind import deviations
from benchmarks.evidence.folder import FILE, experiment_of, given_for, refuse_missing
from benchmarks.evidence.markup import markdown_text
from benchmarks.evidence.publish import block
from benchmarks.evidence.runs import Runs, hold_to_experiment, read_runs
from benchmarks.evidence.study import FIGURES, Study
from benchmarks.evidence.times import TIMES
from benchmarks.evidence.webpage import (
    KINDS,
    Families,
    Figure,
    Shown,
    embedded,
    html,
    plain,
    render,
)
from manifold.errors import UserError
from manifold.files import write_text
from manifold.settings import Experiment, find
from manifold.training import command

REPORT = "report.html"


def page(given: Experiment | None, folder: Path) -> str:
    """The page of a folder of results.

    Args:
        given: what the folder is of, where it holds no readable experiment.yaml.

    Raises:
        UserError: the folder is missing; no study has a table there; or what it is of is not known.
    """
    refuse_missing(folder)
    folder = folder.resolve()
    shown, studies, faults = [], [], []
    known, runs = None, read_runs(folder)
    with leaving_out(str(folder / FILE), faults):
        known = experiment_of(folder)
    experiment = known or given
    if experiment is None:
        raise UserError("\n".join([*faults, f"{folder} does not say what it is of: give --config"]))
    faults += [*_altered(folder), *runs.faults]
    if known is not None:
        faults += hold_to_experiment(folder, known, runs)
    families = {
        definition.title: definition.family for definition in experiment.method_definitions.values()
    }
    for study in experiment.studies.values():
        if not (folder / f"{study.name}.md").is_file():
            faults += _absent(study, folder, runs)
            continue
        with leaving_out(f"{study.title}: left out", faults):
            shown.append(show(study, folder, families, runs, faults))
            studies.append(study)
            faults += [*_harmed(study, folder), *_other_than_its_runs(study, folder)]
    if not shown:
        raise UserError(
            f"{folder} holds no study, and the page makes none; with the same --config, snakemake "
            "--cores all reproduce_table1 report makes both, all report every study and the page"
        )
    short = html(answer(experiment, folder, studies, faults), "In short")
    words = html(in_other_studies(studies, folder, faults), "In short")
    provenance = _provenance(experiment, folder, runs, faults)
    first, *others = shown
    figures = first.figures if first.name == IN_SHORT else []
    return render(
        title=f"Distilling vision transformers: {folder.name}",
        lead=f"{experiment.description}. Written from the files of {folder.name} alone; what of a "
        "study is not among them, or cannot be read, is said below by name.",
        answer=short,
        words=words,
        figures=figures,  # of the answer, and not of its study once more
        studies=[replace(first, figures=first.figures[len(figures) :]), *others],
        faults=[fault.replace(str(folder), folder.name) for fault in faults],
        deviations=html(deviations(studies, folder), "Deviations"),
        provenance=provenance,
    )


def _altered(folder: Path) -> list[str]:
    """What is not as it was published, in words; a page is about to be written anew."""
    if not (folder / sums.SUMS).is_file():
        return []
    own = f"{folder / REPORT} "
    return [fault for fault in sums.check(folder) if not fault.startswith(own)]


def _absent(study: Study, folder: Path, runs: Runs) -> list[str]:
    """What is known of a study whose table to be read is not here."""
    here = [path.name for path in study.files() if (folder / path.name).is_file()]
    if here:
        return [
            f"{study.title}: not shown, since {folder / study.name}.md is missing; "
            f"{', '.join(here)} of it are here"
        ]
    if not study.is_evidence:
        return []
    needed = study.needed()
    recorded = {run.key for run in runs}
    known = sum(key in recorded for key in needed)
    records = f", but the records of {known} of its {len(needed)} students" if known else ""
    return [f"{study.title}: nothing of it is here{records} (snakemake {study.target} makes it)"]


def _harmed(study: Study, folder: Path) -> Iterable[str]:
    """The files of a study that are empty, or missing where no sums say what was there.

    Of a figure one format is enough.
    """
    paths = [folder / path.name for path in study.files()]
    yield from (f"{path} is empty" for path in paths if path.is_file() and not path.stat().st_size)
    if (folder / sums.SUMS).is_file():
        return
    drawn = {path.stem for path in paths if path.suffix in FIGURES}
    for path in paths:
        if path.suffix not in FIGURES and not path.is_file():
            yield f"{path} is missing"
    for stem in sorted(drawn):
        if not any((folder / f"{stem}{suffix}").is_file() for suffix in FIGURES):
            yield f"{folder / stem}: the figure is missing, in all of {', '.join(FIGURES)}"


def _other_than_its_runs(study: Study, folder: Path) -> Iterable[str]:
    """The files of a study that are not what its runs give, in the folder where these are.

    Published files have their sums. What the jobs of a study made takes long to read again.
    """
    is_here = study.experiment.directory.resolve() == folder
    if (folder / sums.SUMS).is_file() or not is_here or study.jobs():
        return
    with suppress(UserError):  # what its runs lack is said of them
        for path, difference in differing(study, folder).items():
            if difference and path.is_file():
                yield f"{path} is not what its runs give: {difference}"


def show(study: Study, folder: Path, families: Families, runs: Runs, faults: list[str]) -> Shown:
    """A study's table, words and figures, from its files, and the runs behind them."""
    text = (folder / f"{study.name}.md").read_text(encoding="utf-8")
    caption = plain(text.strip().partition("\n\n")[2].partition("\n\n")[0])
    return Shown(
        name=study.name,
        title=study.title,
        question=study.question,
        body=html(block(text), study.title, families),
        figures=list(_figures(study, folder, caption, faults)),
        behind=html(
            behind.runs_behind(study, folder, runs, faults), f"{study.title}, behind these numbers"
        ),
    )


def _figures(study: Study, folder: Path, caption: str, faults: list[str]) -> Iterable[Figure]:
    text = f"{study.title}, as a figure of its table. {caption}"
    for stem in dict.fromkeys(path.stem for path in study.files() if path.suffix in KINDS):
        # Photographs are pixels in either kind, and take twice the bytes in an SVG.
        kinds = reversed(KINDS) if stem.endswith("_pictures") else KINDS
        paths = (folder / f"{stem}{suffix}" for suffix in kinds)
        for path in paths:
            if not path.is_file() or not path.stat().st_size:
                continue
            with leaving_out(f"{path}: left out", faults):
                yield embedded(path, text)
                break


def _provenance(experiment: Experiment, folder: Path, runs: Runs, faults: list[str]) -> Markup:
    """What made the runs, as far as the files say."""
    parts = ["### Runs with a record", behind.made_by(runs)]
    with leaving_out(f"{folder / TIMES}: left out of the provenance", faults):
        parts += ["### Whole runs", behind.whole_runs(folder)]
    with leaving_out(f"{folder}/logs: left out of the provenance", faults):
        parts += ["### Failed, resumed and unfinished", behind.failed(folder)]
    is_here = "" if (folder / FILE).is_file() else "not "
    parts += [
        "### Configuration and registration",
        f"The whole configuration, {FILE}, is {is_here}among these files.",
    ]
    said = Markup()
    if experiment.registered is not None:
        parts.append(markdown_text(f"Registered, in {experiment.registered}:"))
        with leaving_out(f"{experiment.registered}: left out of the provenance", faults):
            text = find(experiment.registered).read_text(encoding="utf-8")
            said = Markup('<pre tabindex="0">{}</pre>').format(text)
    return html("\n\n".join(filter(None, parts)), "Provenance") + said


def main() -> None:
    parser = command.parser("benchmarks report", __doc__)
    parser.add_argument(
        "--folder", type=Path, help="of the files, which says what it is of; default: of --config"
    )
    parser.add_argument("--output", type=Path, help=f"default: {REPORT} in that folder")
    options = parser.parse_args()
    if options.folder is None:
        given = command.experiment(options)
    else:
        given = given_for([options.folder], parser, options)
    folder = options.folder or given.directory
    output = options.output or folder / REPORT
    write_text(output, page(given, folder))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
