"""Tables, words and figures are made without torch, and wait for nothing else that is slow."""

import os
import subprocess
import sys

import pytest

from manifold.settings import ROOT

TABLES = (
    "benchmarks.table1.text",
    "benchmarks.recipes.text",
    "benchmarks.ablation.table",
    "benchmarks.cost.table",
    "benchmarks.curves.table",
    "benchmarks.maps.table",
    "benchmarks.choice",
    "benchmarks.transfer.table",
    "benchmarks.segmentation.table",
    "benchmarks.evidence.make",
    "benchmarks.evidence.publish",
)
SLOW = ("torch", "timm", "torchvision", "sklearn", "scipy.stats", "matplotlib")


def slow_imports_of(modules, folder):
    """Import modules in a process in which a torch that raises stands before the real one."""
    (folder / "torch.py").write_text("raise RuntimeError('torch was imported')", encoding="utf-8")
    lines = [f"import {module}" for module in ("sys", *modules)]
    lines.append(f"print(*[name for name in {SLOW} if name in sys.modules])")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_tables_import_nothing_slow(tmp_path):
    assert slow_imports_of(TABLES, tmp_path) == []


@pytest.mark.slow
def test_the_table_of_the_detectors_imports_nothing_slow(tmp_path):
    pytest.importorskip("pycocotools")
    tables = ["benchmarks.detection.table", "benchmarks.detection.rehearsal.table"]
    assert slow_imports_of(tables, tmp_path) == []
