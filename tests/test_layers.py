"""Who may import whom: benchmarks → baselines → manifold, and inside manifold one way too."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from manifold.settings import ROOT

# Each layer, and those that it may import besides itself; what is listed nowhere is lower still.
LAYERS = {
    "benchmarks": {"baselines", "manifold.training", "manifold.method", "manifold.settings"},
    "baselines": {"manifold.method", "manifold.settings"},
    "manifold.training": {"manifold.method", "manifold.settings"},
    "manifold.method": {"manifold.settings"},
    "manifold.settings": set(),
}
# The lowest: they know nothing of what the project is about.
FOUNDATION = {
    *("manifold.errors", "manifold.files", "manifold.counted"),
    *("manifold.image_files", "manifold.image_folders"),
}
# The command line stands beside the layers: it calls whatever it is asked for.
COMMANDS = {"manifold.__main__", "benchmarks.__main__"}
PACKAGES = ("manifold", "baselines", "benchmarks")


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def layer(module: str) -> str | None:
    """The layer of a module; None for the foundation."""
    if module in FOUNDATION:
        return None
    for prefix in ("benchmarks", "baselines", "manifold.training", "manifold.settings"):
        if module == prefix or module.startswith(f"{prefix}."):
            return prefix
    return "manifold.method"


def imported(path: Path) -> set[str]:
    """Every module of this project that a file imports, also within functions."""
    names = set()
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                names.add(below if below in known else node.module)
    return {name for name in names if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("module", sorted(set(modules()) - COMMANDS))
def test_a_module_imports_nothing_above_it(module):
    own = layer(module)
    allowed = {None} if own is None else {None, own, *LAYERS[own]}
    above = {name for name in imported(modules()[module]) if layer(name) not in allowed}
    assert not above, f"{module} ({own}) imports {sorted(above)}"


def test_the_method_stands_first_in_its_package():
    """What a newcomer sees in manifold/ is the method; the machine is one level down."""
    shown = {path.stem for path in (ROOT / "manifold").glob("*.py")}
    assert {"losses", "methods", "distiller", "tokens", "attention"} <= shown
    assert not shown & {"train", "cohort", "data", "launch", "records", "runs", "config"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_no_module_is_long(module):
    assert len(modules()[module].read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.slow
def test_the_settings_are_resolved_without_torch_or_pandas(tmp_path):
    for name in ("torch", "pandas", "matplotlib", "mmdet", "timm", "scipy"):
        (tmp_path / f"{name}.py").write_text(
            f"raise RuntimeError('{name} was imported')", encoding="utf-8"
        )
    code = (
        "from manifold.settings import resolve\n"
        "for scale in ('smoke', 'mini', 'imagenet', 'coco'):\n"
        "    for study in resolve({'scale': scale}).studies.values():\n"
        "        study.cells(), study.results(), study.jobs(), study.identity()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
