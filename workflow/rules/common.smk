"""Paths and functions that the rules share."""

from manifold.config import CELL_FILES, PRETRAINED, UNTRAINED, fingerprint
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
