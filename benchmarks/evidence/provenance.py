"""Whether the runs of a table were made by one code, on one data; and which were not."""

from collections import defaultdict
from dataclasses import dataclass, field

from manifold.errors import UserError
from manifold.settings.data_files import is_of_files

TRAINING = "training"  # the kind of code that all runs share
Run = tuple[str, int]  # the row that it belongs to, as the reader knows it, and its seed


@dataclass
class Sources:
    """The code and the data that the runs of a document were made with.

    Attributes:
        runs: of each run what is compared: a kind of code, and its hash.
        data: of each data set that the document is about, the digest that each run recorded.
        machines: what each run was made on, as far as its record says.
    """

    runs: list[tuple[Run, dict[str, str | None]]] = field(default_factory=list)
    data: dict[str, dict[Run, str]] = field(default_factory=lambda: defaultdict(dict))
    machines: list[tuple[Run, str]] = field(default_factory=list)

    def add(self, row: str, method: str, seed: int, record: dict, data: str = "") -> None:
        """Remember what made a run.

        Args:
            row: as the reader knows it.
            method: whose sources shape it.
            record: its run.json.
            data: the name of its data set, where a document is about several.
        """
        made_by = {
            TRAINING: record.get("training_hash"),
            f"method {method}": record.get("source_hash"),
        }
        self.runs.append(((row, seed), made_by))
        self.machines.append(((row, seed), _machine(record.get("environment", {}))))
        self._add_data((row, seed), record, data)

    def add_job(self, row: str, job: str, seed: int, record: dict, data: str = "") -> None:
        """Remember what made a result of one of the study's jobs.

        Args:
            row: as the reader knows it.
            job: its name.
            record: what it wrote of the result.
            data: as in ``add``.
        """
        self.runs.append(((row, seed), {f"job {job}": record.get("source_hash")}))
        self._add_data((row, seed), record, data)

    def add_machine(self, row: str, seed: int, record: dict) -> None:
        """Remember on which machine a result of a job was trained."""
        self.machines.append(((row, seed), _machine(record["environment"])))

    def _add_data(self, run: Run, record: dict, data: str) -> None:
        if (digest := record.get("data_digest")) is not None:
            self.data[data][run] = digest

    def refuse_mixed_data(self) -> None:
        """Refuse runs of which some saw other data: their seeds are not paired.

        Raises:
            UserError: names the runs, and what to do.
        """
        for name, made_of in self.data.items():
            # A digest of files says nothing beside one that was taken before bytes counted.
            kinds = defaultdict(dict)
            for run, digest in made_of.items():
                kinds[is_of_files(digest)][run] = digest
            for digests in kinds.values():
                usual = _most_frequent(list(digests.values()))
                odd = [run for run, digest in digests.items() if digest != usual]
                if odd:
                    raise UserError(
                        f"{len(odd)} of the {len(digests)} runs were made on other data"
                        f"{f' of {name}' if name else ''} than the rest, so that they are not "
                        f"paired with them: {_listed(odd)}. Put the data back where they were and "
                        "run snakemake again, which makes anew what is of others; or delete the "
                        "folders of these runs"
                    )

    def words(self) -> str:
        """Say which runs were made by other code, or on another machine, than most."""
        return " ".join(filter(None, (self._on_code(), self._on_machines())))

    def _on_machines(self) -> str:
        usual = _most_frequent([machine for _, machine in self.machines] or [""])
        others: dict[str, list[Run]] = defaultdict(list)
        for run, machine in self.machines:
            if machine != usual:
                others[machine].append(run)
        if not others:
            return ""
        count = len(self.machines) - sum(map(len, others.values()))
        said = [f"{len(runs)} on {machine}: {_listed(runs)}" for machine, runs in others.items()]
        return (
            f"Merged: of the {len(self.machines)} runs, {count} on {usual}, {'. '.join(said)}. "
            "Rounding differs from machine to machine, and training multiplies it."
        )

    def _on_code(self) -> str:
        odd = self._made_by_other_code()
        if not odd:
            return ""
        return (
            f"Mixed: {len(odd)} of the {len(self.runs)} runs were made by other code than the "
            f"rest: {_listed(odd)}; --config stale=retrain makes anew all that today's code has "
            "not made."
        )

    def _made_by_other_code(self) -> list[Run]:
        """Runs of which some kind of code is not the usual one; what trains all is told first."""
        kinds = dict.fromkeys(kind for _, made_by in self.runs for kind in made_by)
        odd: dict[Run, None] = {}
        for kind in sorted(kinds, key=TRAINING.__ne__):
            own = [(run, made_by[kind]) for run, made_by in self.runs if kind in made_by]
            # Of two runs, one of which trained as the others did, the other is the odd one.
            known = [found for run, found in own if run not in odd]
            usual = _most_frequent(known or [found for _, found in own])
            odd |= dict.fromkeys(run for run, found in own if found != usual)
        return list(odd)


def _machine(environment: dict) -> str:
    """What rounding depends on, in words."""
    torch = environment.get("packages", {}).get("torch", "unknown")
    return (
        f"{environment.get('device', 'unknown')} ({environment.get('processor', 'unknown')}, torch "
        f"{torch})"
    )


def _listed(runs: list[Run]) -> str:
    """Runs in words; rows of the same seeds, and alike but for their first word, together."""
    seeds: dict[str, set[int]] = defaultdict(set)
    for row, seed in runs:
        seeds[row].add(seed)
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row, own in seeds.items():
        first, _, rest = row.partition(", ")
        alike[rest, ", ".join(map(str, sorted(own)))].append(first)
    return "; ".join(
        f"{', '.join(firsts)} ({f'{rest}, ' if rest else ''}seed {own})"
        for (rest, own), firsts in alike.items()
    )


def _most_frequent(values: list[str | None]) -> str | None:
    """The most frequent value; of equals the one that comes last, since it was made last."""
    return max(reversed(values), key=values.count)
