"""The settings of a method: what ``config/methods.yaml`` holds of each."""

from typing import Any, Literal, Self

from manifold.settings.section import Section

Family = Literal["labels", "logits", "features", "relations", "manifold"]
# A pair's students: keys of its section.
StudentKey = Literal["student", "distilled_student", "lifted_student", "widened_student"]


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
    student: StudentKey
    """Which of the pair's students it trains."""
    source: str
    """The paper or code, and where its weights were published."""

    def unnamed(self) -> Self:
        """Without what tables say of it, which shapes no weights."""
        return self.replaced(title="", family=None, source="")
