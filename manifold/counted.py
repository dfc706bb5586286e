"""What a user is told of data in few lines: how often each thing was seen, and the first case."""


class Counted:
    """Cases by their kind: how many, and the first."""

    def __init__(self):
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}

    def add(self, kind: str, case: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, case)

    def words(self, before_the_first: str = ", the first ") -> list[str]:
        """A line for each kind, in the order in which they were met."""
        return [
            f"{count} {kind}{before_the_first}{self.first[kind]}"
            for kind, count in self.counts.items()
        ]
