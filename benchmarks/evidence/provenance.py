"""Whether the runs of a table were made by one code, on one data; and which were not."""

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Sources:
    """The code and the data that the runs of a document were made with.

    Attributes:
        runs: of each run: the row that it belongs to, its seed, and what is compared: a kind of
            source, and its hash.
    """

    runs: list[tuple[str, int, dict[str, str | None]]] = field(default_factory=list)

    def add(self, row: str, method: str, seed: int, record: dict, data: str = "") -> None:
        """Remember what made a run.

        Args:
            row: as the reader knows it.
            method: whose sources shape it.
            record: its run.json.
            data: the name of its data set, where a document is about several.
        """
        made_by = {
            "training": record.get("training_hash"),
            f"method {method}": record.get("source_hash"),
            f"data {data}": record.get("data_digest"),
        }
        self.runs.append((row, seed, made_by))

    def add_job(self, row: str, job: str, seed: int, record: dict) -> None:
        """Remember what made a result of one of the study's jobs.

        Args:
            row: as the reader knows it.
            job: its name.
            record: what it wrote of the result. The data are part of the result's identity.
        """
        self.runs.append((row, seed, {f"job {job}": record.get("source_hash")}))

    def words(self) -> str:
        """Say which runs were made by other code or other data than most; nothing if none were."""
        hashes: dict[str, list[str | None]] = defaultdict(list)
        for _, _, made_by in self.runs:
            for kind, found in made_by.items():
                hashes[kind].append(found)
        odd: dict[str, set[int]] = defaultdict(set)
        for row, seed, made_by in self.runs:
            if any(found != _most_frequent(hashes[kind]) for kind, found in made_by.items()):
                odd[row].add(seed)
        if not odd:
            return ""
        rows = "; ".join(
            f"{row} (seed {', '.join(map(str, sorted(seeds)))})" for row, seeds in odd.items()
        )
        count = sum(map(len, odd.values()))
        return (
            f"Mixed: {count} of the {len(self.runs)} runs were made by other code or on other data "
            f"than the rest: {rows}; --config stale=retrain makes them anew."
        )


def _most_frequent(values: list[str | None]) -> str | None:
    """The most frequent value; of equals the one that comes last, since it was made last."""
    return max(reversed(values), key=values.count)
