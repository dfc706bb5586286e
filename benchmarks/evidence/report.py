"""One page of all that a run has made: ``results/NAME/report.html``; no request leaves it.

It is written from the files of the studies as they stand, in the order of the scale, so it takes
seconds, trains nothing, and is the same for a folder of published files. A study that has no files,
or of which one cannot be read, is named and left out.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup

from benchmarks.evidence import behind
from benchmarks.evidence.behind import deviations
from benchmarks.evidence.judge import NOT_COMPARABLE, NOT_RUN
from benchmarks.evidence.publish import block, in_short
from benchmarks.evidence.runs import Runs, hold_to_experiment, read_runs
from benchmarks.evidence.study import Study
from manifold.errors import UserError
from manifold.files import write_text
from manifold.settings import Experiment, find, read_experiment
from manifold.training import command

REPORT = "report.html"
IN_SHORT = "table1"
REGION = '<div class="table" role="group" aria-label="a table that scrolls" tabindex="0">'
Families = dict[str, str | None]
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}  # the better one first


@dataclass(frozen=True)
class Figure:
    """A picture in the page itself, with what it shows in words."""

    source: str
    text: str


@dataclass(frozen=True)
class Shown:
    """A study on the page."""

    name: str
    title: str
    question: str
    figures: list[Figure]
    body: Markup
    behind: Markup | None = None  # its rule, and the record of every run


def page(experiment: Experiment, folder: Path) -> str:
    """The page of a folder of results.

    Raises:
        UserError: no study has a table there.
    """
    shown, faults = [], []
    own, runs = _own(experiment, folder, faults), read_runs(folder)
    faults += runs.faults
    if own is not experiment:
        faults += hold_to_experiment(folder, own, runs)
    families = {
        definition.title: definition.family for definition in experiment.method_definitions.values()
    }
    for study in experiment.studies.values():
        path = folder / f"{study.name}.md"
        if not path.is_file():
            if study.is_evidence:
                faults.append(f"{study.title}: not run ({study.target} makes it).")
            continue
        try:
            shown.append(show(study, folder, families, runs, faults))
        except (UserError, OSError, ValueError) as error:
            faults.append(f"{study.title}: left out, since {error}")
    if not shown:
        raise UserError(f"{folder} holds no study; let snakemake make one first, or `all`")
    names = {study.name for study in shown}
    return render(
        title=f"Distilling vision transformers: {folder.name}",
        lead=f"{experiment.description}. Written from the files of {folder.name}; a study that "
        "is not on this page was not run there.",
        answer=_answer(experiment, folder, faults),
        studies=shown,
        faults=[fault.replace(str(folder), folder.name) for fault in faults],
        deviations=html(deviations(s for s in own.studies.values() if s.name in names)),
        provenance=_provenance(experiment, folder, runs),
    )


def _own(experiment: Experiment, folder: Path, faults: list[str]) -> Experiment:
    """What a folder's runs were to be, or what was asked for where it does not say."""
    path = folder / "experiment.yaml"
    try:
        return read_experiment(path) if path.is_file() else experiment
    except UserError as error:
        faults.append(f"{path}: which runs were to be here is not known, since {error}")
        return experiment


def render(**parts: Any) -> str:
    """The page of its parts; what of them is not Markup is text."""
    environment = Environment(
        loader=PackageLoader("benchmarks.evidence", "."),
        autoescape=select_autoescape(["j2"]),
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(**parts)


def show(study: Study, folder: Path, families: Families, runs: Runs, faults: list[str]) -> Shown:
    """A study's table, words and figures, from its files, and the runs behind them."""
    text = (folder / f"{study.name}.md").read_text(encoding="utf-8")
    caption = text.strip().partition("\n\n")[2].partition("\n\n")[0]
    return Shown(
        name=study.name,
        title=study.title,
        question=study.question,
        figures=list(_figures(study, folder, caption)),
        body=html(block(text), families),
        behind=html(behind.runs_behind(study, folder, runs, faults)),
    )


def html(markdown: str, families: Families | None = None) -> Markup:
    """Markdown of a study's own as HTML; tags in it are text.

    Args:
        families: of methods by their title; a table's rows are marked with theirs.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens, row = reader.parse(markdown), None
    for token in tokens:
        if token.type == "tr_open":
            row = token
        elif token.type == "inline" and row is not None and families:
            title = "".join(child.content for child in token.children)
            if (family := families.get(title)) is not None:
                row.attrSet("data-family", family)
        elif token.type == "heading_open" or token.type == "heading_close":
            token.tag = {"h4": "h3", "h5": "h4"}.get(token.tag, token.tag)  # a study's is an h2
    rendered = reader.renderer.render(tokens, reader.options, {})
    wrapped = rendered.replace("<table>", f"{REGION}<table>")
    wrapped = wrapped.replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">')
    return Markup(wrapped)


def _figures(study: Study, folder: Path, caption: str) -> Iterable[Figure]:
    stems = dict.fromkeys(path.stem for path in study.files() if path.suffix in KINDS)
    for stem in stems:
        for suffix in KINDS:
            if (path := folder / f"{stem}{suffix}").is_file():
                yield embedded(path, f"{study.title}, as a figure of the table below. {caption}")
                break


def embedded(path: Path, text: str) -> Figure:
    """A picture's bytes for the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    return Figure(f"data:{KINDS[path.suffix]};base64,{content}", text)


def _answer(experiment: Experiment, folder: Path, faults: list[str]) -> Markup | None:
    path = folder / f"{IN_SHORT}.csv"
    if IN_SHORT not in experiment.studies or not path.is_file():
        return None
    try:
        words = in_short(pd.read_csv(path), experiment)
        claims = folder / f"{IN_SHORT}_claims.csv"
        if claims.is_file():
            words += f"\n\n{_on_claims(pd.read_csv(claims), experiment)}"
        return html(words)
    except (KeyError, ValueError) as error:
        faults.append(f"{path.name}: left out of what is in short, since {error}")
        return None


def _on_claims(claims: pd.DataFrame, experiment: Experiment) -> str:
    """What these runs say of what others report, verdict by verdict."""
    counts = claims["verdict"].value_counts()
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    words = f"What others report, {len(claims)} claims, held to these runs: **{listed}**."
    if NOT_COMPARABLE in counts:
        words += (
            " A claim that is not comparable is of other data, networks, recipe or budget than "
            f"these, which are of {experiment.description}: here it is neither confirmed nor "
            "refuted."
        )
    judged = claims[~claims["verdict"].isin([NOT_COMPARABLE, NOT_RUN])]
    lines = (f"- {row['id']}: {row['verdict']}" for _, row in judged.iterrows())
    return "\n\n".join([words, *(["\n".join(lines)] if len(judged) else [])])


def _provenance(experiment: Experiment, folder: Path, runs: Runs) -> Markup:
    """What made the runs, as far as the files say."""
    parts = [
        "### Runs with a record",
        behind.made_by(runs),
        "### Whole runs",
        behind.whole_runs(folder),
        "### Failed, resumed and unfinished",
        behind.failed(folder),
        "### Configuration and registration",
    ]
    name = "experiment.yaml"
    is_here = (folder / name).is_file()
    parts.append(
        f"The whole configuration: `{folder.name}/{name}`."
        if is_here
        else f"The whole configuration, {name}, is not among these files."
    )
    if experiment.registered is not None:
        said = find(experiment.registered).read_text(encoding="utf-8")
        parts.append(f"Registered, in `{experiment.registered}`:\n\n```\n{said}```")
    return html("\n\n".join(filter(None, parts)))


def main() -> None:
    parser = command.parser("benchmarks report", __doc__)
    parser.add_argument("--folder", type=Path, help="of the files; default: the experiment's")
    parser.add_argument("--output", type=Path, help=f"default: {REPORT} in that folder")
    options = parser.parse_args()
    experiment = command.experiment(options)
    folder = options.folder or experiment.directory
    output = options.output or folder / REPORT
    write_text(output, page(experiment, folder))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
