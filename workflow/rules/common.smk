"""Paths and functions that the rules share."""

from pathlib import Path

from manifold.config import (
    CELL_FILES,
    DETECTOR_FILES,
    UNTRAINED,
    fingerprint,
)
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
        students = [
            EXPERIMENT.backbone_student(method, wildcards.seed) for method in methods
        ]
        return [str(student) for student in students if student is not None]

    return found


def transfer_students():
    """The students of a seed, by wildcard: those of the cells, and the untrained one."""
    (pair, recipe, epochs), methods = next(iter(EXPERIMENT.transfer_cells().items()))
    return expand(
        CELL,
        pair=pair,
        recipe=recipe,
        epochs=epochs,
        method=methods,
        file=CELL_FILES,
        allow_missing=True,
    ) + [f"{RESULTS}/transfer/seed-{{seed}}/untrained.safetensors"]


def transfer_files(protocols, files):
    """The files of every row, of the data sets that ask for one of the protocols."""
    return expand(
        f"{RESULTS}/transfer/{{data}}/{{method}}/seed-{{seed}}/{{file}}",
        data=[
            name
            for name, entry in EXPERIMENT.transfer.data.items()
            if set(entry.protocols) & set(protocols)
        ],
        method=[UNTRAINED, *EXPERIMENT.transfer_methods()],
        file=files,
        allow_missing=True,
    )
