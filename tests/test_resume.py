"""Runs that are killed, and cells that are complete: no kill shows in a result.

Some runs are killed from outside, as a machine would; the others kill themselves around a chosen
renaming, so that every moment at which a file changes is met for certain.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import CELL_FILES, ROOT, resolve, to_words
from manifold.training import cells as training_cells
from manifold.training import train
from manifold.training.cohort import Cohort

pytestmark = pytest.mark.slow

PAIR = "deit-cait"
METHODS = ["none", "fitnet", "manifold"]
EPOCHS = 2
STEPS = 4  # in an epoch of the 70 images that this leaves to train on
DATA = {"dataset": "faces", "validation": 30}


def settings(results, weights="train", **overrides):
    """Overrides of a small run that saves after every step; the folder keeps its name."""
    return {
        "scale": "smoke",
        "results": str(results),
        "name": "run",
        "data": DATA,
        "pairs": {PAIR: {"teacher": {"weights": str(weights), "epochs": 1}}},
        "machine": {"checkpoint_seconds": 0},
        **overrides,
        "recipes": {"A": {"batch_size": 16, **overrides.get("recipes", {}).get("A", {})}},
    }


def words(overrides):
    options = ["--methods", *METHODS, "--epochs", str(EPOCHS), "--seed", "0"]
    return ["--config", *to_words(overrides), *options]


def run(arguments):
    """The documented command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["manifold.training.train", *arguments])
        train.main()


def cohort_of(overrides):
    experiment = resolve(overrides)
    return train.student_setting(experiment, PAIR, "A", EPOCHS, METHODS, 0)


def directory_of(results, method):
    return results / "run" / "cells" / PAIR / "A" / f"{EPOCHS}-epochs" / method / "seed-0"


def outcome(results):
    """Everything in the cells that a kill must not change."""
    found = {}
    for method in METHODS:
        directory = directory_of(results, method)
        record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        metrics = pd.read_csv(directory / "metrics.csv", dtype=str)
        keys = (
            "result",
            "images_seen",
            "fingerprint",
            "source_hash",
            "duplicate_share",
            "resolved",
        )
        found[method] = {
            "weights": sha256(directory / "student.safetensors"),
            "metrics": metrics.drop(columns="images_per_second").to_dict("list"),
            **{key: record[key] for key in keys},
        }
    return found


def digests(results, methods=METHODS):
    return {
        method: {name: sha256(directory_of(results, method) / name) for name in CELL_FILES}
        for method in methods
    }


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    results = tmp_path_factory.mktemp("teacher")
    run([*words(settings(results)), "--teacher"])
    return results / "run" / "teachers" / PAIR / "student.safetensors"


@pytest.fixture(scope="module")
def uninterrupted(teacher, tmp_path_factory):
    """The results of a run that is never stopped, and never saves between epochs."""
    results = tmp_path_factory.mktemp("uninterrupted")
    run(words(settings(results, teacher, machine={"checkpoint_seconds": 3600})))
    return results


# ---- kills -----------------------------------------------------------------------------------


def train_and_die(arguments, name, call, moment):
    """Train in a process that kills itself around the ``call``-th renaming onto such a file."""
    searched = os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        ["python", "-m", "distributed_worker", "die-at-file", name, str(call), moment, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": searched},
        stderr=subprocess.DEVNULL,
    )
    return done.returncode


@pytest.mark.parametrize(
    ("name", "call", "moment", "resumed"),
    [
        (".pt", 1, "while writing", None),
        (".pt", 1, "just after", 1),
        (".pt", STEPS + 3, "while writing", STEPS + 2),
        ("student.safetensors", 1, "while writing", EPOCHS * STEPS),
        ("student.safetensors", 1, "just after", EPOCHS * STEPS),
        ("run.json", 1, "while writing", EPOCHS * STEPS),
        ("run.json", 1, "just after", EPOCHS * STEPS),
    ],
)
def test_a_killed_run_goes_on_to_the_same_results(
    name, call, moment, resumed, teacher, uninterrupted, tmp_path, capsys, on_path
):
    arguments = words(settings(tmp_path, teacher))
    assert train_and_die(arguments, name, call, moment) == -signal.SIGKILL
    assert not (directory_of(tmp_path, METHODS[-1]) / "run.json").exists()
    capsys.readouterr()
    run(arguments)
    assert outcome(tmp_path) == outcome(uninterrupted)
    assert list((tmp_path / "run" / "state").rglob("*.pt")) == []
    said = capsys.readouterr().err
    if resumed is None:
        assert "resuming" not in said
    else:
        assert f" at step {resumed}\n" in said


def test_the_command_survives_kills_from_outside(teacher, uninterrupted, tmp_path, on_path):
    """Killed at its first checkpoint, then again after a few steps more."""
    overrides = settings(tmp_path, teacher)
    command = ["python", "-m", "manifold", "train", *words(overrides)]
    state = cohort_of(overrides)[0].state
    seen = set()

    def has_saved_again():
        seen.add(state.stat().st_mtime_ns)
        return len(seen) > 3

    for due in (state.is_file, has_saved_again):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and not due():
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    run(words(overrides))
    assert outcome(tmp_path) == outcome(uninterrupted)


# ---- checkpoints that do not fit -------------------------------------------------------------


def interrupt(arguments, step):
    """Stop a run before a step, as Ctrl-C would; its last checkpoint stays."""
    step_of_cohort = Cohort.step

    def step_or_stop(self, images, targets, number, *shards_and_passes):
        if number == step:
            raise KeyboardInterrupt
        step_of_cohort(self, images, targets, number, *shards_and_passes)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Cohort, "step", step_or_stop)
        run(arguments)


def test_a_checkpoint_of_another_configuration_is_ignored(teacher, uninterrupted, tmp_path, capsys):
    other = {"fitnet": {"arguments": {"weight": 50.0}}}
    interrupt(words(settings(tmp_path, teacher, method_definitions=other)), 5)
    overrides = settings(tmp_path, teacher)
    state = cohort_of(overrides)[0].state
    assert state.is_file()
    run(words(overrides))
    assert f"{state} is of another configuration; starting anew" in capsys.readouterr().err
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_a_run_records_the_sources_that_it_was_started_with(teacher, tmp_path, monkeypatch):
    overrides = settings(tmp_path, teacher)
    monkeypatch.setattr(training_cells, "source_hash", lambda *of: f"first {of[0]}")
    interrupt(words(overrides), 3)
    monkeypatch.setattr(training_cells, "source_hash", lambda *of: f"edited {of[0]}")
    run(words(overrides))
    for cell in cohort_of(overrides)[1]:
        record = json.loads((cell.directory / "run.json").read_text(encoding="utf-8"))
        assert record["source_hash"] == f"first {cell.definition.distiller}"


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_an_error_that_names_it(kept, teacher, tmp_path):
    overrides = settings(tmp_path, teacher)
    interrupt(words(overrides), 2)
    state = cohort_of(overrides)[0].state
    content = state.read_bytes()
    state.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError) as caught:
        run(words(overrides))
    assert str(state) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert not directory_of(tmp_path, METHODS[0]).exists()
    state.unlink()
    run(words(overrides))
    assert all(cell.is_complete() for cell in cohort_of(overrides)[1])


# ---- complete cells --------------------------------------------------------------------------


@pytest.fixture
def complete(uninterrupted, tmp_path):
    """A copy of the finished run, to be harmed."""
    results = tmp_path / "copy"
    for method in METHODS:
        source, target = directory_of(uninterrupted, method), directory_of(results, method)
        target.mkdir(parents=True)
        for name in CELL_FILES:
            (target / name).write_bytes((source / name).read_bytes())
    return results


def test_complete_cells_are_left_alone(complete, teacher, monkeypatch):
    before = digests(complete)
    monkeypatch.setattr(Cohort, "step", lambda *_: pytest.fail("a complete cell was trained"))
    run(words(settings(complete, teacher)))
    assert digests(complete) == before


def delete(path):
    path.unlink()


def edit(path):
    path.write_text(
        path.read_text(encoding="utf-8").replace("validation_top1", "test_top1"), encoding="utf-8"
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("student.safetensors", delete),
        ("student.safetensors", flip),
        ("metrics.csv", edit),
        ("run.json", delete),
    ],
)
def test_a_harmed_cell_alone_is_trained_again(name, harm, complete, teacher, uninterrupted):
    others = [method for method in METHODS if method != "fitnet"]
    before = digests(complete, others)
    harm(directory_of(complete, "fitnet") / name)
    run(words(settings(complete, teacher)))
    assert outcome(complete) == outcome(uninterrupted)
    assert digests(complete, others) == before
    record = json.loads((directory_of(complete, "fitnet") / "run.json").read_text(encoding="utf-8"))
    assert record["cohort"] == ["fitnet"]


@pytest.mark.parametrize(
    ("overrides", "incomplete"),
    [
        ({"method_definitions": {"fitnet": {"arguments": {"weight": 50.0}}}}, ["fitnet"]),
        ({"method_definitions": {"manifold": {"arguments": {"samples": 64}}}}, ["manifold"]),
        ({"recipes": {"A": {"ema_decay": 0.5}}}, METHODS),
        ({"data": {"validation": 29}}, METHODS),
        ({"machine": {"evaluation_batch_size": 7}}, []),
        ({"method_definitions": {"fitnet": {"title": "Hints"}}}, []),
    ],
)
def test_what_shapes_the_weights_makes_a_cell_incomplete(overrides, incomplete, complete, teacher):
    _, cells = cohort_of(settings(complete, teacher, **overrides))
    assert [cell.method for cell in cells if not cell.is_complete()] == incomplete


def test_another_teacher_makes_every_cell_incomplete(complete, teacher, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(teacher.read_bytes())
    assert all(cell.is_complete() for cell in cohort_of(settings(complete, other))[1])
    flip(other)
    assert not any(cell.is_complete() for cell in cohort_of(settings(complete, other))[1])
