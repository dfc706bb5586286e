"""What runs, how far, how long still: from the files of a folder of results alone."""

import os
import sys
import time

import pytest
import torch
from made_cells import SEEDS, train

from benchmarks.evidence import watch
from benchmarks.evidence.cells import metrics_of
from benchmarks.evidence.events import Events
from manifold.errors import MARK, UserError

LINE = "seed 3, none +2 [epoch 1/2]: 430/859 steps, 12.3 step/s, 35 s left"


@pytest.fixture
def folder(make):
    """Three seeds that are done, and one that is trained."""
    experiment = make("results")
    train(experiment, SEEDS[:3])
    root = experiment.directory
    state = root / "state/deit-cait/A/2-epochs/seed-3-3d33bf53.pt"
    state.parent.mkdir(parents=True)
    row = {"epoch": 1, "step": 100, "validation_top1": 71.5}
    rows = {"none": [row], "soft_kd": [{**row, "validation_top1": None}]}
    saved = {"step": 150, "rows": rows, "wall_seconds": 300.0, "cohort": torch.zeros(3)}
    torch.save(saved, state)
    (root / "logs").mkdir()
    log = root / "logs/cohort-0-deit-cait-A-2-seed-3.txt"
    log.write_text(f"resuming\n{LINE}\n", encoding="utf-8")
    return experiment


def test_it_says_what_is_done_how_far_and_how_long_still(folder):
    said = watch.look(folder)
    assert "9 of the 12 students of all studies are done" in said
    assert "none" in said and "3 of 4        70.00 70.14 70.29" in said
    assert "deit-cait/A/2-epochs/seed-3-3d33bf53: step 150 of 200, about 1 min 40 s left" in said
    assert "validation top-1: none 71.50\n" in said and LINE in said
    assert "silent" not in said and "FAILED" not in said


def test_a_job_that_is_silent_and_one_that_failed_are_told(folder):
    log = folder.directory / "logs/cohort-0-deit-cait-A-2-seed-3.txt"
    long_ago = time.time() - 600
    os.utime(log, (long_ago, long_ago))
    failed = folder.directory / "logs/table1.txt"
    failed.write_text(f"{MARK}the disk is full\nmore", encoding="utf-8")
    said = watch.look(folder)
    assert "silent for 10 min 0 s" in said and "FAILED table1.txt" in said


def test_before_the_first_checkpoint_and_with_a_damaged_one_its_log_speaks(folder):
    state = folder.directory / "state/deit-cait/A/2-epochs/seed-3-3d33bf53.pt"
    state.write_bytes(b"PK\x03\x04")
    (job,) = watch.running(folder.directory)
    assert (job.step, job.left, job.said) == (0, None, LINE)
    state.unlink()
    (job,) = watch.running(folder.directory)
    assert (job.name, job.said) == ("cohort-0-deit-cait-A-2-seed-3", LINE)


def test_tensorboard_gets_every_epoch_of_every_student_once(folder, tmp_path):
    events, name = Events(tmp_path / "events"), "deit-cait/A/2-epochs/none"
    for _ in range(2):  # nothing is new the second time
        watch.look(folder, events)
    running, done = (points(tmp_path / "events" / name / seed) for seed in ("seed-3", "seed-0"))
    assert running == {"validation_top1": [(100, 71.5)]}
    (row,) = metrics_of(folder, ("deit-cait", "A", 2, "none", 0))
    step = int(row.pop("step"))
    del row["epoch"]
    assert done == {tag: [(step, float(value))] for tag, value in row.items()} and len(row) == 3
    with pytest.raises(UserError, match="something is there"):
        Events(tmp_path / "events")


def points(run):
    """The scalars of a run by their tag, as (step, value), from TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run)).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_without_tensorboard_its_option_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        Events(tmp_path / "events")


def test_a_folder_that_is_not_there_is_refused(make):
    with pytest.raises(UserError, match="nothing has been started there"):
        watch.look(make("nowhere"))
