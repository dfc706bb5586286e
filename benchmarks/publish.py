"""Keep a run: copy its tables, figures and provenance to ``results/published/NAME``.

``python -m benchmarks.publish --config scale=mini`` also puts what the README shows of each table
between the table's two markers there, so that no number in those blocks is typed by hand.
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
DETECTION = (
    *("detection.md", "detection.csv", "detection.tex", "detection.png", "detection.pdf"),
    *("detection_seeds.csv", "detection_pictures.png", "detection_pictures.pdf"),
)
DETECTION_REHEARSAL = ("rehearsal_detection.md", "rehearsal_detection.csv")
# The tables in the README: whole, or the caption and these sections.
README_BLOCKS: dict[str, tuple[str, ...] | None] = {
    "table1": None,
    "bench": ("In words",),
    "recipes": (
        "How much is the method, how much the recipe, how much the budget?",
        "In words",
    ),
    "ablation": ("In words",),
    "transfer": ("In words",),
    "detection": ("In words",),
}


def publish(experiment: Experiment) -> list[Path]:
    """Copy what the run has made and return the copies.

    Raises:
        UserError: there is nothing to publish.
    """
    tables = ((*TABLE1, *EVIDENCE), RECIPES, ABLATION, BENCH, TRANSFER, DETECTION, CHOICE)
    groups = [
        [experiment.directory / name for name in names]
        for names in (*tables, REHEARSAL, DETECTION_REHEARSAL)
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


def readme_block(table: str, sections: tuple[str, ...] | None = None) -> str:
    """The part of a published table's .md that the README shows, headings two levels lower.

    Args:
        table: the file's text.
        sections: what is shown below the caption; None: everything below the title.

    Raises:
        UserError: the file lacks a section.
    """
    title, _, body = table.strip().partition("\n\n")
    if sections is not None:
        lead, *parts = body.split("\n## ")
        known = {part.partition("\n")[0]: part.strip() for part in parts}
        for section in sections:
            if section not in known:
                raise UserError(f"{title.strip('# ')!r} has no section {section!r}")
        caption = lead.partition("\n\n")[0]
        body = "\n\n## ".join([caption, *(known[section] for section in sections)])
    return body.replace("\n## ", "\n#### ")


def markers(name: str) -> tuple[str, str]:
    """The README's lines before and after what it shows of a table."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def update_readme(readme: Path, name: str, block: str) -> None:
    """Put a block between the markers of its table.

    Raises:
        UserError: the markers are not there.
    """
    begin, end = markers(name)
    before, found, rest = readme.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{readme} lacks the markers {begin} and {end}")
    write_text(readme, f"{before}{begin}\n{block}\n{end}{after}")


def main() -> None:
    experiment = command.experiment(command.parser("benchmarks.publish", __doc__).parse_args())
    publish(experiment)
    if experiment.name == "mini":
        for name, sections in README_BLOCKS.items():
            table = PUBLISHED / "mini" / f"{name}.md"
            if table.is_file():
                block = readme_block(table.read_text(), sections)
                update_readme(ROOT / "README.md", name, block)


if __name__ == "__main__":
    command.run(main)
