"""The settings of a method: what ``config/methods.yaml`` holds of each."""

from typing import Any, Literal

from manifold.settings.section import Section

Family = Literal["labels", "logits", "features", "relations", "manifold"]


class Method(Section):
    """A method's entry."""

    title: str
    """Its name in tables and figures."""
    distiller: str
    """module:Class."""
    family: Family | None = None
    """What the student learns from, by which the report's tables are filtered; null: of none."""
    arguments: dict[str, Any]
    """What the class is given beside the networks."""
    student: Literal["student", "distilled_student"]
    """Which of the pair's students it trains."""
    source: str
    """The paper or code, and where its weights were published."""
