"""Paths and functions that the rules share."""

from manifold.config import CELL_FILES, PRETRAINED, fingerprint
from manifold.launch import cpus, launcher, resources

CELL = f"{RESULTS}/cells/{{pair}}/{{recipe}}/{{epochs}}-epochs/{{method}}/seed-{{seed}}/{{file}}"
MACHINE = EXPERIMENT.machine

# How a training is started: in one process, by torchrun, or by srun and torchrun on every node.
LAUNCH = launcher(MACHINE)


def cells(pairs, recipes, epochs):
    """The files of every method and seed under these pairs, recipes and budgets."""
    return [
        path
        for pair in pairs
        for path in expand(
            CELL,
            pair=pair,
            recipe=recipes,
            epochs=epochs,
            method=EXPERIMENT.methods_of(pair),
            seed=EXPERIMENT.seeds,
            file=CELL_FILES,
        )
    ]


def identity_of(pair, methods):
    """A params function: what shapes the weights of a cohort of these methods."""

    def hashed(wildcards):
        key = (pair, wildcards.recipe, int(wildcards.epochs))
        return fingerprint(
            [
                EXPERIMENT.cell_identity(*key, method, int(wildcards.seed))
                for method in methods
            ]
        )

    return hashed
