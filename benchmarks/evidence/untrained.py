"""What the studies share that show a student which knows nothing: one a seed."""

from pathlib import Path
from typing import Any

from benchmarks.evidence.study import Job, Study
from manifold.settings import UNTRAINED


class WithUntrained(Study):
    """A study of a pair's students that has the untrained one as a control."""

    def untrained_student(self, seed: int) -> Path:
        """The student as it was before a seed's first step."""
        folder = self.experiment.directory / self.name / f"seed-{seed}"
        return folder / f"{UNTRAINED}.safetensors"

    def untrained_files(self, seed: int) -> list[Path]:
        """That student's weights and their record."""
        weights = self.untrained_student(seed)
        return [weights, weights.with_suffix(".json")]

    def untrained_job(self, run: str) -> Job:
        """The job that writes it.

        Args:
            run: the study's own function, which does ``initialised.write_untrained``.
        """
        return Job(
            "initialise",
            run=run,
            message="Initialising the untrained student of seed {wildcards.seed}",
            outputs=tuple(
                f"{self.name}/seed-{{seed}}/{UNTRAINED}.{suffix}"
                for suffix in ("safetensors", "json")
            ),
            identity=self._initialised,
            is_local=True,
        )

    def _initialised(self, seed: int) -> Any:
        # The experiment's own data say how many classes an untrained student has.
        experiment = self.experiment
        student = experiment.pairs[self.settings.pair].student
        _, record = self.untrained_files(seed)
        return [experiment.data, student, *self.planned_files(record)]
