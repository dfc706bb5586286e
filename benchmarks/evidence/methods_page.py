"""Writes docs/methods.md from the methods' classes and entries: ``benchmarks describe-methods``.

Of each class its docstring, which holds formula, divisors and source; of each entry its arguments
and where they come from; and whether golden values of the authors' code hold it.
"""

import inspect
from collections import defaultdict
from pathlib import Path

from manifold.files import write_text
from manifold.settings import ROOT, Method, read_yaml
from manifold.training.arguments import find_distiller

PAGE = ROOT / "docs" / "methods.md"
GOLDEN = ROOT / "tests" / "golden"
# Golden values whose file is not called as the class's module.
GOLDEN_OF = {
    "manifold.methods:Manifold": "manifold_loss",
    "manifold.methods:ManifoldFull": "manifold_loss",
}

INTRODUCTION = """# The methods

Written from `config/methods.yaml` and the classes' docstrings by `python -m benchmarks
describe-methods`; a test holds it to them. *Golden*: the loss and its gradient are held to values
that the authors' own code gave, in `tests/golden`. *Base*: what the method's own terms are added
to, as it was published; methods that have one take the other by `base` in their entry."""

NOT_ROWS = {
    "DTO-KD (ICLR 2026)": "its source could not be read",
    "G2SD": "two stages: the student learns to fill masked patches before it learns the task",
    "timm's `FeatureDistillationTask`": "the features before the classifier, of both networks",
    "timm's `TokenDistillationTask`": "`hard_kd_token` is its hard form; the soft one is no row",
}


def page() -> str:
    """The whole page."""
    entries = {
        name: Method(**entry) for name, entry in read_yaml(ROOT / "config/methods.yaml").items()
    }
    by_class: dict[str, list[str]] = defaultdict(list)
    for name, entry in entries.items():
        by_class[entry.distiller].append(name)
    parts = [INTRODUCTION]
    for declared, names in by_class.items():
        kind = find_distiller(names[0], entries[names[0]])
        module, _, name = declared.partition(":")
        golden = GOLDEN / f"{GOLDEN_OF.get(declared, module.rpartition('.')[2])}.json"
        path = Path(*module.split(".")).with_suffix(".py")
        base = f"base {kind.published_base}" if kind.published_base else "no base to choose"
        parts += [
            f"## {name}",
            f"[{path}](../{path}); {base}; "
            f"{'golden values' if golden.is_file() else 'no golden values'}.",
            f"```text\n{inspect.getdoc(kind)}\n```",
            _table([(each, entries[each]) for each in names]),
        ]
    parts.append("## What is not a row, and what it would take")
    rows = (f"| {name} | {words} |" for name, words in NOT_ROWS.items())
    parts.append("\n".join(["| method | what it would take |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _table(entries: list[tuple[str, Method]]) -> str:
    lines = ["| entry | title | arguments | source of its weights |", "|---|---|---|---|"]
    for name, entry in entries:
        given = ", ".join(f"{key}: {value}" for key, value in entry.arguments.items()) or "—"
        lines.append(f"| `{name}` | {entry.title} | {given} | {entry.source} |")
    return "\n".join(lines)


def main() -> None:
    write_text(PAGE, page())
