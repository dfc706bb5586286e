"""What a page says in short: the answer of the README's first screen, from the folder's files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pandas as pd

from benchmarks.evidence.between_methods import decided
from benchmarks.evidence.judge import NO_EVIDENCE, NOT_COMPARABLE, NOT_RUN
from benchmarks.evidence.markup import markdown_block, markdown_text
from benchmarks.evidence.publish import PUBLISHED, in_short
from benchmarks.evidence.study import Study
from benchmarks.evidence.words import DECIDES, readable_interval
from manifold.errors import UserError, told
from manifold.settings import Experiment, resolve
from manifold.settings.resolve import known_scales

IN_SHORT = "table1"  # the study that answers first
# What a study's words say is left after the correction, behind what it was corrected for.
CORRECTED = re.compile(
    r"(?:Of these )?[Tt]old from (?P<what>[^:]+) after Holm's correction[^:]*: "
    r"(?P<left>.+?)(?:\. |$)"
)
HARM = (UserError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


@contextmanager
def leaving_out(what: str, faults: list[str]) -> Iterator[None]:
    """Name what cannot be read, and go on behind it."""
    try:
        yield
    except HARM as error:
        said = error if isinstance(error, UserError | UnicodeError) else told(error)
        faults.append(f"{what}, since {said}")


def answer(experiment: Experiment, folder: Path, shown: list[Study], faults: list[str]) -> str:
    """The question, who is ahead, what it says of claims, and what was not run, as Markdown.

    Args:
        shown: the studies on the page.
        faults: what cannot be read is named here.
    """
    parts: list[str] = []
    here = {study.name for study in shown}
    if IN_SHORT in here:
        parts.append(markdown_text(experiment.studies[IN_SHORT].question))
        for suffix, words in (("", in_short), ("_contrasts", _contrasts), ("_claims", _claims)):
            path = folder / f"{IN_SHORT}{suffix}.csv"
            said = len(parts)
            if path.is_file() and f"{suffix}.csv" not in experiment.studies[IN_SHORT].absent():
                with leaving_out(f"{path}: left out of what is in short", faults):
                    parts.append(words(pd.read_csv(path), experiment))
            if len(parts) == said and not suffix:
                parts.append(f"Who is ahead is not said here: {path.name} cannot be read.")
    studies = experiment.studies.values()
    absent = [study.title for study in studies if study.is_evidence and study.name not in here]
    lines = [f"Not on this page: {'; '.join(absent)}."] if absent else []
    parts.append("What was not run, and what stands elsewhere:")
    parts.append(markdown_block([*lines, *other_scales(experiment)]))
    return "\n\n".join(parts)


def in_other_studies(shown: list[Study], folder: Path, faults: list[str]) -> str:
    """Of each study on the page but the first to answer what its deciding test tells, in a line.

    Of one whose words name no such test it is what Holm's correction leaves in each family, also
    in those that were not registered.

    Single intervals are not repeated here: of many some lie beside zero where nothing differs.
    """
    lines = []
    for study in shown:
        if study.is_evidence and study.name != IN_SHORT:
            with leaving_out(f"{study.title}: left out of what is in short", faults):
                lines.append(_in_one_line(study, folder))
    if not lines:
        return ""
    head = (
        "The other studies, by the test that decides where their words name one, or else by what "
        "Holm's correction within each of their families leaves, registered or not, ahead and "
        "behind alike:"
    )
    return "\n\n".join([head, "\n".join(lines)])


def _contrasts(rows: pd.DataFrame, experiment: Experiment) -> str:
    """Which of two methods is ahead, where neither is the baseline."""

    def line(row: pd.Series) -> str:
        first, second = (
            experiment.method_definitions[row[key]].title for key in ("first", "second")
        )
        pair = f", {row['pair']}" if rows["pair"].nunique() > 1 else ""
        shown = readable_interval(row, "difference", "+")
        return f"{first} − {second}{pair}: {shown} points, {decided(row, experiment.statistics)}"

    lines = markdown_block([line(row) for _, row in rows.iterrows()])
    return f"Between two methods, seed by seed:\n\n{lines}"


def _claims(claims: pd.DataFrame, experiment: Experiment) -> str:
    """What these runs say of what others report, verdict by verdict."""
    counts = claims["verdict"].value_counts()
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    words = (
        f"What others report, {len(claims)} claims, held to these runs: "
        f"**{markdown_text(listed)}**."
    )
    if NOT_COMPARABLE in counts:
        words += (
            " A claim that is not comparable is of other data, networks, recipe or budget than "
            f"these, which are of {markdown_text(experiment.description)}: here it is neither "
            "confirmed nor refuted."
        )
    judged = claims[~claims["verdict"].isin([NOT_COMPARABLE, NOT_RUN, NO_EVIDENCE])]
    lines = [f"{row['id']}: {row['verdict']}" for _, row in judged.iterrows()]
    return "\n\n".join([words, *([markdown_block(lines)] if lines else [])])


def _in_one_line(study: Study, folder: Path) -> str:
    text = (folder / f"{study.name}.md").read_text(encoding="utf-8")
    _, _, words = text.partition("\n## In words\n")
    told, decides = [], []
    for line in re.findall(r"^- (.+)$", words.partition("\n## ")[0], re.MULTILINE):
        if line.startswith(DECIDES):
            decides.append(line.removeprefix(DECIDES))
        if found := CORRECTED.search(line):
            about = "" if found.start() == 0 else f"{line.partition('. ')[0]}, "
            told.append(f"{about}told from {found['what']}: {found['left'].rstrip('.')}")
    runs = pd.read_csv(folder / f"{study.name}_seeds.csv", usecols=["seed"])["seed"].nunique()
    said = ". ".join(decides or told) or "its words are single intervals or describe; see there"
    return f"- {markdown_text(study.title)}, {runs} seeds: {said}"


def other_scales(experiment: Experiment) -> list[str]:
    """Which studies are published at scales of other data, and of which scales none is."""
    lines, none = [], []
    groups, unread = _scales()
    for group in groups:
        if group[0].data == experiment.data:
            continue
        said = max(group, key=lambda other: len(other.studies)).description
        titles = {
            study.title: other.name
            for other in group
            for study in other.studies.values()
            if study.is_evidence and (PUBLISHED / other.name / f"{study.name}.md").is_file()
        }
        if titles:
            at = ", ".join(f"results/published/{name}" for name in dict.fromkeys(titles.values()))
            lines.append(f"Published of {said}: {'; '.join(titles)}, in {at}.")
        else:
            none.append(f"{said} ({', '.join(other.scale for other in group)})")
    lines += [f"No study is published of: {'; '.join(none)}."] if none else []
    return [*lines, *unread]


@cache
def _scales() -> tuple[list[list[Experiment]], list[str]]:
    """The scales of this suite, by their data, and which could not be read.

    A choice, the user's own images and the tests' digits are no scale of an answer.
    """
    groups: list[list[Experiment]] = []
    unread: list[str] = []
    for scale in known_scales():
        try:
            other = resolve({"scale": scale})
        except UserError as error:  # a file that another scale ships is missing here
            unread.append(f"What is published of the scale {scale} is not said, since {error}")
            continue
        if other.evaluation_split != "test" or other.data.folder is None:
            continue
        of_its_data = [group for group in groups if group[0].data == other.data]
        if of_its_data:
            of_its_data[0].append(other)
        else:
            groups.append([other])
    return groups, unread
