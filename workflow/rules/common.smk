"""Paths and functions that the rules share."""

from manifold.config import CELL_FILES, fingerprint

CELL = f"{RESULTS}/cells/{{pair}}/{{recipe}}/{{epochs}}-epochs/{{method}}/seed-{{seed}}/{{file}}"


def cells(pairs, recipes, epochs):
    """The files of every method and seed under these pairs, recipes and budgets."""
    return expand(
        CELL,
        pair=pairs,
        recipe=recipes,
        epochs=epochs,
        method=EXPERIMENT.methods,
        seed=EXPERIMENT.seeds,
        file=CELL_FILES,
    )


def identity_of(methods):
    """A params function: what shapes the weights of a cohort of these methods."""

    def hashed(wildcards):
        key = (wildcards.pair, wildcards.recipe, int(wildcards.epochs))
        return fingerprint(
            [
                EXPERIMENT.cell_identity(*key, method, int(wildcards.seed))
                for method in methods
            ]
        )

    return hashed
