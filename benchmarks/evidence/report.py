"""One page of all that a run has made: ``results/NAME/report.html``; no request leaves it.

It is written from the files of the studies as they stand, in the order of the scale, so it takes
seconds, trains nothing, and is the same for a folder of published files. A study that has no files,
or of which one cannot be read, is named and left out.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup

from benchmarks.evidence.publish import block, in_short
from benchmarks.evidence.study import Study
from benchmarks.evidence.times import TIMES, read_runs
from manifold.errors import UserError
from manifold.files import write_text
from manifold.settings import Experiment, find
from manifold.training import command

REPORT = "report.html"
IN_SHORT = "table1"
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


def page(experiment: Experiment, folder: Path) -> str:
    """The page of a folder of results.

    Raises:
        UserError: no study has a table there.
    """
    shown, faults = [], []
    for study in experiment.studies.values():
        path = folder / f"{study.name}.md"
        if not path.is_file():
            if study.is_evidence:
                faults.append(f"{study.title}: not run ({study.target} makes it).")
            continue
        try:
            shown.append(show(study, folder))
        except (UserError, OSError, ValueError) as error:
            faults.append(f"{study.title}: left out, since {error}")
    if not shown:
        raise UserError(f"{folder} holds no study; let snakemake make one first, or `all`")
    return render(
        title=f"Distilling vision transformers: {folder.name}",
        lead=f"{experiment.description}. Written from the files of {folder.name}; what is not on "
        "this page was not run.",
        answer=_answer(experiment, folder, faults),
        studies=shown,
        faults=faults,
        provenance=_provenance(experiment, folder),
    )


def render(**parts: Any) -> str:
    """The page of its parts; what of them is not Markup is text."""
    environment = Environment(
        loader=PackageLoader("benchmarks.evidence", "."),
        autoescape=select_autoescape(["j2"]),
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(**parts)


def show(study: Study, folder: Path) -> Shown:
    """A study's table, words and figures, from its files."""
    text = (folder / f"{study.name}.md").read_text(encoding="utf-8")
    caption = text.strip().partition("\n\n")[2].partition("\n\n")[0]
    return Shown(
        name=study.name,
        title=study.title,
        question=study.question,
        figures=list(_figures(study, folder, caption)),
        body=html(block(text)),
    )


def html(markdown: str) -> Markup:
    """Markdown of a study's own as HTML; tags in it are text."""
    rendered = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    wrapped = rendered.replace("<table>", '<div class="table" tabindex="0"><table>')
    wrapped = wrapped.replace("</table>", "</table></div>")
    for level in (4, 5):  # a study's heading is of the second level
        wrapped = wrapped.replace(f"<h{level}>", f"<h{level - 1}>")
        wrapped = wrapped.replace(f"</h{level}>", f"</h{level - 1}>")
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
        return html(in_short(pd.read_csv(path), experiment))
    except (KeyError, ValueError) as error:
        faults.append(f"{path.name}: left out of what is in short, since {error}")
        return None


def _provenance(experiment: Experiment, folder: Path) -> Markup:
    """What made the runs, as far as the files say."""
    parts = []
    commits = {
        path.name.removesuffix("_seeds.csv"): pd.read_csv(path)
        for path in sorted(folder.glob("*_seeds.csv"))
    }
    rows = [
        f"| {name} | {len(runs)} | {_listed(runs, 'git_commit')} | {_listed(runs, 'seed')} |"
        for name, runs in commits.items()
    ]
    if rows:
        parts.append("\n".join(["| Study | Runs | Commit | Seeds |", "|---|---|---|---|", *rows]))
    if (folder / TIMES).is_file():
        runs = read_runs(folder / TIMES)
        minutes = sum(float(run["wall_seconds"]) for run in runs) / 60
        parts.append(
            f"{len(runs)} run(s) of Snakemake ended, {minutes:.0f} minutes in all, on "
            f"{', '.join(sorted({run['processor'] for run in runs}))}."
        )
    if experiment.registered is not None:
        said = find(experiment.registered).read_text(encoding="utf-8")
        parts.append(f"Registered, in `{experiment.registered}`:\n\n```\n{said}```")
    preflight = folder / "preflight.json"
    if preflight.is_file():
        packages = json.loads(preflight.read_text(encoding="utf-8")).get("packages", {})
        if packages:
            parts.append(", ".join(f"{name} {version}" for name, version in packages.items()))
    parts.append(f"The whole configuration: `{folder.name}/experiment.yaml`.")
    return html("\n\n".join(parts))


def _listed(runs: pd.DataFrame, column: str) -> str:
    if column not in runs:
        return "—"
    values = runs[column].dropna().astype(str)
    return ", ".join(dict.fromkeys(value[:7] for value in sorted(values)))


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
