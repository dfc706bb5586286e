"""After an edit of the suite's own code: what was made stays, is told of, or is made anew."""

import json
import shutil

import pandas as pd
import pytest
import running

from manifold.settings import ROOT, resolve

pytestmark = pytest.mark.slow

COPIED = ("workflow", "config", "profiles", "manifold", "baselines", "benchmarks")
METHODS = ["soft_kd", "sp"]
WORDS = [
    "scale=smoke",
    "methods=[soft_kd, sp]",
    "table1={epochs: 1, claims: {deit-cait: {none: no-distillation}}}",
    "data={dataset: faces, validation: 30}",
    "recipes={A: {batch_size: 64}}",
    "pairs={deit-cait: {teacher: {epochs: 1}}}",
    "name=s",
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory, on_path):
    """A clone whose sources can be edited, with a table in it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    shutil.copytree(ROOT / "results/reported", folder / "results/reported")
    make(folder)
    return folder


def make(folder, *words, force=()):
    """Run Table 1 with the clone's own sources; return all that was said."""
    done = running.snakemake(
        folder,
        *("--cores", "1", "reproduce_table1", *force, "--config", *WORDS, *words),
        PYTHONPATH=str(folder),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def records(folder):
    cells = folder / "results/s/cells"
    return {
        path.parent: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(cells.rglob("run.json"))
    }


def changed(before, after):
    return {f"{path.parent.name} {path.name}" for path in after if before[path] != after[path]}


def caption(folder):
    return (folder / "results/s/table1.md").read_text(encoding="utf-8").split("\n\n")[1]


def test_an_edited_method_is_told_of_and_made_anew_on_request(clone):
    fresh = records(clone)
    assert len(fresh) == 4 and "Mixed" not in caption(clone)
    source = clone / "baselines/sp.py"
    source.write_text(
        source.read_text(encoding="utf-8") + "\n# a comment is no edit\n", encoding="utf-8"
    )
    assert "Nothing to be done" in make(clone, "stale=retrain")
    source.write_text(source.read_text(encoding="utf-8") + "\nEDITED = True\n", encoding="utf-8")
    assert "Nothing to be done" in make(clone)

    (cell,) = [path for path in fresh if path.parts[-2:] == ("sp", "seed-1")]
    (cell / "student.safetensors").unlink()
    said = make(clone)
    assert "soft_kd/seed-1 is complete" in said
    mixed = records(clone)
    assert changed(fresh, mixed) == {"sp seed-1"}
    assert "Mixed: 1 of the 4 runs" in caption(clone)
    assert "sp (deit-cait, recipe A, 1 epoch, seed 0)" in caption(clone)
    for suffix in ("md", "tex"):
        assert "stale=retrain" in (clone / f"results/s/table1.{suffix}").read_text(encoding="utf-8")

    said = make(clone, "stale=retrain")
    assert "soft_kd/seed-0 is complete" in said and "sp/seed-0 is complete" not in said
    assert changed(mixed, records(clone)) == {"sp seed-0"}
    assert "Mixed" not in caption(clone)
    assert "Nothing to be done" in make(clone)

    # All alike again: the weights are those of the same seeds.
    rows = pd.read_csv(clone / "results/s/table1_seeds.csv")
    assert set(rows["method"]) == set(METHODS)
    last = {path: record["result"] for path, record in records(clone).items()}
    assert last == {path: record["result"] for path, record in fresh.items()}


def test_an_edited_training_is_told_of_by_the_job_that_keeps_its_cells(clone):
    before = records(clone)
    source = clone / "manifold/training/evaluation.py"
    source.write_text(source.read_text(encoding="utf-8") + "\nEDITED = True\n", encoding="utf-8")
    (cell,) = [path for path in before if path.parts[-2:] == ("soft_kd", "seed-0")]
    (cell / "run.json").unlink()
    said = make(clone)
    assert "sp/seed-0 was made by other code than now stands; --config stale=retrain" in said
    assert changed(before, records(clone)) == {"soft_kd seed-0"}
    assert "Mixed: 1 of the 4 runs" in caption(clone)


def test_what_is_forced_is_trained_again_and_nothing_else(clone):
    before = records(clone)
    make(clone, force=["--forcerun", "train_deit_cait_A_1_0"])
    assert changed(before, records(clone)) == {f"{m} seed-{s}" for m in METHODS for s in (0, 1)}
    assert "Mixed" not in caption(clone)


def test_the_names_of_the_two_ways_are_all_there_are():
    assert resolve({"scale": "smoke", "stale": "retrain"}).stale == "retrain"
    with pytest.raises(ValueError, match="'keep', 'retrain'"):
        resolve({"scale": "smoke", "stale": "drop"})
