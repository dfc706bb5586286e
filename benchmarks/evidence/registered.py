"""What was said before the runs: the question, the runs, and the test that decides.

A file of ``results/registered`` is committed before the runs that it speaks of, a section a study.
A table says whether it was made as registered, and in what it differs.
"""

import re
from typing import Any, Literal

from pydantic import ValidationError

from manifold.errors import UserError
from manifold.settings import Experiment, Section, find, fingerprint, read_yaml
from manifold.settings.messages import path_of

Primary = Literal["blocks", "paired"]
# What `words` says, in a table's file.
SAID = re.compile(
    r"(?:Registered in .+? on .+? decides, over .+?|Not in .+?, so exploratory)\.(?= [A-Z]|$)",
    re.MULTILINE,
)

PRIMARY = {  # in words
    "blocks": "the randomised-block model with Dunnett's comparison",
    "paired": "the test of paired differences with Holm's correction",
}


class Registered(Section):
    """What was registered of one study."""

    said: str
    """The day."""
    question: str
    """What the study is to answer."""
    runs: dict[str, Any]
    """Keys of the study, and of its seeds and methods, with the values that were to be run."""
    primary: Primary
    """The test that decides."""
    family: str
    """The comparisons that the test is corrected for."""
    rule: str
    """The test in words, and what happens where its assumptions do not hold."""
    would_change_our_mind: list[str]
    """Results, said beforehand, that would refute what is expected."""


def registered(experiment: Experiment, study: str) -> Registered | None:
    """What the experiment's file says of a study; None where there is none.

    Raises:
        UserError: the file cannot be read, or its section lacks something.
    """
    if experiment.registered is None:
        return None
    section = read_yaml(find(experiment.registered)).get(study)
    if section is None:
        return None
    if not isinstance(section, dict):
        raise UserError(f"{experiment.registered}: {study} must be a mapping, got {section!r}")
    try:
        return Registered(**{key: _text(value) for key, value in section.items()})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{experiment.registered}: {study}.{path_of(first['loc'])}: {first['msg']}; keys are "
            f"{', '.join(Registered.model_fields)}"
        ) from error


def differences(said: Registered, runs: dict[str, Any]) -> list[str]:
    """In what runs differ from those that were registered, key by key.

    Args:
        runs: the values of the study as it stands.
    """
    return [
        f"{key} {_listed(runs.get(key))} instead of {_listed(value)}"
        for key, value in said.runs.items()
        if fingerprint(runs.get(key)) != fingerprint(value)
    ]


def words(experiment: Experiment, study: str, runs: dict[str, Any]) -> str:
    """What a caption says: nothing where the scale registers nothing."""
    if experiment.registered is None:
        return ""
    said = registered(experiment, study)
    if said is None:
        return f"Not in {experiment.registered}, so exploratory."
    others = differences(said, runs)
    how = f", but with {'; '.join(others)}" if others else ", and made so"
    return (
        f"Registered in {experiment.registered} on {said.said}{how}; "
        f"{PRIMARY[said.primary]} decides, over {said.family}."
    )


def words_of(table: str) -> str | None:
    """What a table that was written says in its caption; None where it says nothing of it.

    Args:
        table: the text of its file.
    """
    found = SAID.search(table)
    return found and found[0]


def _text(value: Any) -> Any:
    """YAML reads a day as a date."""
    return value if isinstance(value, (dict, list)) else str(value)


def _listed(value: Any) -> str:
    if not isinstance(value, list | tuple):
        return str(value)
    return ", ".join(
        " − ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in value
    )
