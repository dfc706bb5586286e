"""Paths and functions that the rules share."""

from pathlib import Path

from manifold.config import CELL_FILES, DETECTOR_FILES, RANDOM, fingerprint
from manifold.launch import cpus, launcher, resources

CELL = f"{RESULTS}/cells/{{pair}}/{{recipe}}/{{epochs}}-epochs/{{method}}/seed-{{seed}}/{{file}}"
MACHINE = EXPERIMENT.machine

# How a training is started: in one process, by torchrun, or by srun and torchrun on every node.
LAUNCH = launcher(MACHINE)


def cells(table):
    """The files of every method and seed that a table needs, by pair, recipe and budget."""
    return [
        path
        for (pair, recipe, epochs), methods in table.items()
        for path in expand(
            CELL,
            pair=pair,
            recipe=recipe,
            epochs=epochs,
            method=methods,
            seed=EXPERIMENT.seeds,
            file=CELL_FILES,
        )
    ]


def identity_of(pair, recipe, epochs, methods):
    """A params function: what shapes the weights of a cohort of these methods."""

    def hashed(wildcards):
        key = (pair, recipe, epochs)
        return fingerprint(
            [
                EXPERIMENT.cell_identity(*key, method, int(wildcards.seed))
                for method in methods
            ]
        )

    return hashed


def settings_of(wildcards):
    """A params function: what the scale's files say of a detector."""
    detection = EXPERIMENT.detection
    text = Path(detection.detectors[wildcards.detector]).read_text()
    return fingerprint([text, detection.options])


def students_of(methods):
    """An input function: the students of these methods, none of random weights."""

    def found(wildcards):
        detection = EXPERIMENT.detection
        key = (detection.pair, detection.recipe, detection.epochs)
        return [
            str(
                EXPERIMENT.cell_directory(*key, method, wildcards.seed)
                / "student.safetensors"
            )
            for method in methods
            if method != RANDOM
        ]

    return found
