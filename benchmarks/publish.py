"""Keep a run: copy its tables, figures and provenance to ``results/published/NAME``.

``python -m benchmarks.publish --config scale=mini`` also puts the table and its caption into the
README, between its two markers, so that no number there is typed by hand.
"""

import shutil
from pathlib import Path

from manifold import command
from manifold.config import ROOT, Experiment
from manifold.errors import UserError
from manifold.files import write_atomic, write_text

PUBLISHED = ROOT / "results" / "published"
TABLE1 = ("table1.md", "table1.csv", "table1.tex", "table1.png", "table1.pdf")
EVIDENCE = ("table1_claims.csv", "table1_seeds.csv", "preflight.json")
CHOICE = ("choice.csv", "choice.md")
RECIPES = (
    *("recipes.md", "recipes.csv", "recipes.tex", "recipes.png", "recipes.pdf"),
    *("recipes_variance.csv", "recipes_seeds.csv"),
)
ABLATION = (
    *("ablation.md", "ablation.csv", "ablation.tex", "ablation.png", "ablation.pdf"),
    "ablation_seeds.csv",
)
TRANSFER = (
    *("transfer.md", "transfer.csv", "transfer.tex", "transfer.png", "transfer.pdf"),
    "transfer_seeds.csv",
)
BENCH = tuple(name.replace("table1", "bench") for name in (*TABLE1, *EVIDENCE[:2]))
REHEARSAL = ("rehearsal.md", "rehearsal.csv", "rehearsal_networks.csv")
BEGIN, END = "<!-- table1: begin -->", "<!-- table1: end -->"


def publish(experiment: Experiment) -> list[Path]:
    """Copy what the run has made and return the copies.

    Raises:
        UserError: there is nothing to publish.
    """
    groups = [
        [experiment.directory / name for name in names]
        for names in ((*TABLE1, *EVIDENCE), RECIPES, ABLATION, TRANSFER, BENCH, CHOICE, REHEARSAL)
    ]
    found = [path for group in groups if all(map(Path.is_file, group)) for path in group]
    if not found:
        raise UserError(
            f"{experiment.directory} holds no complete table; let snakemake make one first"
        )
    copies = []
    for path in found:
        copy = PUBLISHED / experiment.name / path.name
        write_atomic(copy, lambda partial, path=path: shutil.copyfile(path, partial))
        copies.append(copy)
    return copies


def readme_block(table: str) -> str:
    """The part of a table1.md that the README shows: everything below its title."""
    return table.split("\n", 1)[1].strip()


def update_readme(readme: Path, table: str) -> None:
    """Put the table between the README's markers.

    Raises:
        UserError: the markers are not there.
    """
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{readme} lacks the markers {BEGIN} and {END}")
    write_text(readme, f"{before}{begin}\n{readme_block(table)}\n{end}{after}")


def main() -> None:
    experiment = command.experiment(command.parser("benchmarks.publish", __doc__).parse_args())
    publish(experiment)
    if experiment.name == "mini":
        update_readme(ROOT / "README.md", (PUBLISHED / "mini" / "table1.md").read_text())


if __name__ == "__main__":
    command.run(main)
