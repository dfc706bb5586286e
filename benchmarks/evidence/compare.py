"""Two folders of results side by side: ``python -m benchmarks compare FOLDER OTHER``.

Mine against the published; after a change against before it. From records and tables of runs
alone: no weights, no data, nothing is trained. ``comparison.{html,md,csv,tex,png,pdf,svg}`` come
into results/comparison, and nothing into the two folders: of each row both means, the difference
FOLDER − OTHER with its interval, what the two differ in, and how many runs are the same to the last
bit.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmarks.evidence.comparison import Comparison, Part, compare
from benchmarks.evidence.differences import lines, measured, readable
from benchmarks.evidence.document import Document
from benchmarks.evidence.folder import given_for
from benchmarks.evidence.markup import markdown_block
from benchmarks.evidence.webpage import Shown, embedded, html, render
from manifold.errors import UserError
from manifold.files import write_text
from manifold.training import command

NAME = "comparison"
OUTPUT = Path("results") / NAME
DRAWN = 60  # rows of the figure, at most


def caption(found: Comparison) -> str:
    """How the numbers came about."""
    first, second = found.names
    return (
        f"Of each row the mean of its runs in {first} and in {second}, percent, with the "
        f"{100 * found.confidence:g} % t interval, and the difference {first} − {second}, points. "
        "Runs of one seed and one configuration are paired, whatever code made them; all else is "
        "compared as two samples (Welch), which is conservative where seeds are shared. Holm's "
        "correction is over the differences of one table. Same runs: of the seeds that both have, "
        "how many gave the same student to the last bit, or, where no record is here, the same "
        "value to the last digit. Which runs stand on which side nobody chose by chance: a "
        "difference has whatever cause the two differ in."
    )


def write(found: Comparison, folder: Path) -> Path:
    """Write the page and the tables; a figure that fails takes none of them with it.

    Returns:
        The page.

    Raises:
        UserError: the figure cannot be drawn; all else stands.
    """
    tables = [measured(part, found.confidence) for part in found.parts]
    blocks = [list(_blocks(found, *each)) for each in zip(found.parts, tables, strict=True)]
    rows = pd.concat(tables, ignore_index=True)
    left_out = ["## Left out or unknown", found.faults] if found.faults else []
    document = Document(
        title=f"{found.names[0]} beside {found.names[1]}",
        caption=caption(found),
        parts=[*(block for own in blocks for block in own), *left_out],
        csv={"": rows},
        latex=[(readable(rows, found.names), "")],
        figures={"": lambda text: draw(rows, text)},
    )
    failed = None
    try:
        document.write(folder, NAME)
    except UserError as error:
        failed = error
        found.faults.append(str(error))
    shown = [
        Shown(
            f"part-{place}",
            part.title,
            f"Read {part.source}.",
            html(_joined(own[1:]), part.title, found.families),
        )
        for place, (part, own) in enumerate(zip(found.parts, blocks, strict=True))
    ]
    if failed is None:
        shown[0].figures.append(embedded(folder / f"{NAME}.svg", "All differences, row by row"))
    page = folder / f"{NAME}.html"
    text = render(
        title=document.title,
        lead=document.caption,
        answer=None,
        figures=[],
        words=None,
        studies=shown,
        faults=found.faults,
        deviations=None,
        provenance=None,
    )
    write_text(page, text)
    if failed is not None:
        raise failed
    return page


def _blocks(found: Comparison, part: Part, rows: pd.DataFrame) -> Iterable:
    """What stands of a part in comparison.md."""
    yield f"## {part.title}, {part.source}"
    yield readable(rows, found.names)
    yield lines(part, rows, found.names, found.confidence)


def _joined(blocks: Iterable) -> str:
    return "\n\n".join(map(markdown_block, blocks))


def draw(rows: pd.DataFrame, text: str):
    """Every difference with its interval; seeds are in the tables."""
    import matplotlib.pyplot as plt

    from benchmarks.evidence.style import BLUE, GREY, STYLE, WIDTH, rule_out, write_caption

    shown = rows[rows["difference_mean"].notna()].reset_index(drop=True)
    if len(shown) > DRAWN:
        text = f"The first {DRAWN} of {len(shown)} rows. {text}"
        shown = shown[:DRAWN]
    with plt.rc_context(STYLE):
        height = 0.22 * max(len(shown), 3) + 1.2
        figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
        axes.axvline(0, color=GREY, linewidth=1)
        for place, row in shown.iterrows():
            ends = [row["difference_low"], row["difference_high"]]
            axes.plot(ends, [place, place], color=BLUE, linewidth=2)
            axes.plot(row["difference_mean"], place, "D", color=BLUE, markersize=4)
        labels = [f"{row['method']}, {row['row']}" for _, row in shown.iterrows()]
        axes.set_yticks(range(len(shown)), labels, fontsize=7)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("Difference (points)")
        rule_out(axes, "x")
        write_caption(figure, text)
    return figure


def main() -> None:
    parser = command.parser("benchmarks compare", __doc__)
    parser.add_argument("folder", type=Path, help="of results, or of records")
    parser.add_argument("other", type=Path, help="of results, or of records")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"folder; default: {OUTPUT}")
    options = parser.parse_args()
    folders = (options.folder, options.other)
    found = compare(*folders, given_for(folders, parser, options))
    page = write(found, options.output)
    print(f"{page}: {sum(len(part.rows) for part in found.parts)} row(s) compared")
    for fault in found.faults:
        print(f"left out or unknown: {fault}")
