"""Validation accuracy over the grid that a scale's numbers are chosen from.

``python -m benchmarks.choice --config scale=mini-choice`` writes ``choice.csv`` and ``choice.md``.
"""

import pandas as pd

from benchmarks.cells import collect
from manifold import command
from manifold.config import Experiment
from manifold.errors import UserError
from manifold.files import write_text


def build(experiment: Experiment) -> pd.DataFrame:
    """One row a pair, recipe, budget, method and seed: the last epoch's validation top-1 (%).

    Raises:
        UserError: the scale has no grid, or its cells have looked at the test split.
    """
    grid = experiment.choice
    if grid is None or experiment.evaluation_split != "validation":
        raise UserError(
            f"scale {experiment.scale!r} is no choice: it needs the key 'choice' and "
            "evaluation_split: validation"
        )
    rows = []
    for pair in grid.pairs:
        for recipe in grid.recipes:
            for epochs in grid.epochs:
                for method, runs in collect(experiment, pair, recipe, epochs).items():
                    rows += [
                        {
                            "pair": pair,
                            "recipe": recipe,
                            "epochs": epochs,
                            "method": method,
                            "seed": seed,
                            "validation_top1": run["result"]["top1"],
                            "images_per_second": run["images_per_second"],
                        }
                        for seed, run in runs.items()
                    ]
    return pd.DataFrame(rows)


def write(rows: pd.DataFrame, experiment: Experiment) -> None:
    means = rows.pivot_table(
        index=["pair", "recipe", "epochs"], columns="method", values="validation_top1"
    )
    means["mean of the arms"] = means.mean(axis=1)
    means = means.sort_values("mean of the arms", ascending=False).reset_index()
    text = (
        f"# Choice of {experiment.name}\n\nValidation top-1 (%), mean over seeds "
        f"{', '.join(map(str, experiment.seeds))}; the test split was not looked at.\n\n"
        f"{means.to_markdown(index=False, floatfmt='.2f')}\n"
    )
    write_text(experiment.directory / "choice.csv", rows.to_csv(index=False))
    write_text(experiment.directory / "choice.md", text)


def main() -> None:
    experiment = command.experiment(command.parser("benchmarks.choice", __doc__).parse_args())
    write(build(experiment), experiment)


if __name__ == "__main__":
    command.run(main)
