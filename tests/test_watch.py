"""What runs, how far, how long still: from the files of a folder of results alone."""

import hashlib
import os
import shutil
import sys
import time

import pytest
import torch
from made_cells import SEEDS, TRAINING, train

from benchmarks.evidence import events as events_of
from benchmarks.evidence import watch
from benchmarks.evidence.cells import metrics_of
from benchmarks.evidence.events import Events
from benchmarks.evidence.records import write_records
from benchmarks.segmentation import PROTOCOLS
from benchmarks.segmentation.cells import SegmenterCell
from benchmarks.transfer import FINE_TUNING
from manifold.errors import MARK, UserError
from manifold.settings import fingerprint
from manifold.settings.recorded import Recorded, pack, record_path, unpack

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


def put_log(folder, name):
    log = folder.directory / "logs" / f"{name}.txt"
    log.write_text(f"{name} says this\n", encoding="utf-8")
    return log


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_segmenter_has_its_own_log_and_no_curves(folder, protocol):
    state = SegmenterCell(folder, protocol, "soft-kd", 0).state
    state.parent.mkdir()
    rows = [{"epoch": 1, "step": 10, "learning_rate": 0.1, "loss": 2.0}]
    torch.save({"step": 15, "rows": rows, "wall_seconds": 30.0}, state)
    put_log(folder, "segmentation-train-soft-kd-0")
    put_log(folder, "segmentation-train-kd-0")
    job, _ = sorted(watch.running(folder.directory), key=lambda job: job.step)
    assert job.name == f"segmentation/{protocol}-soft-kd-seed-0"
    assert (job.step, job.steps, job.left, job.top1, job.curves) == (15, None, None, {}, {})
    assert job.said == "segmentation-train-soft-kd-0 says this"
    assert f"{job.name}: step 15, " in watch.look(folder)


def test_what_is_fine_tuned_has_its_own_log(folder):
    state = folder.directory / "state/transfer/digits/seed-0-3d33bf53.pt"
    state.parent.mkdir(parents=True)
    rows = {"none": [{"epoch": 1, "step": 10, "validation_top1": 50.0}]}
    torch.save({"step": 15, "rows": rows, "wall_seconds": 30.0}, state)
    put_log(folder, f"transfer-{FINE_TUNING}-digits-0")
    job, _ = sorted(watch.running(folder.directory), key=lambda job: job.step)
    assert job.said == f"transfer-{FINE_TUNING}-digits-0 says this"
    assert (job.steps, job.top1, job.curves) == (None, {"none": 50.0}, {})


def test_a_log_is_known_by_its_whole_name(folder):
    put_log(folder, "cohort-1-cnn-deit-cait-A-2-seed-3")  # of the pair cnn-deit-cait
    (job,) = watch.running(folder.directory)
    assert job.said == LINE
    teacher = folder.directory / "state/deit-cait/teacher.pt"
    torch.save({"step": 15, "rows": {"none": []}, "wall_seconds": 30.0}, teacher)
    put_log(folder, "teacher-deit-cait")
    put_log(folder, "evaluate-teacher-deit-cait")
    assert {job.said for job in watch.running(folder.directory)} == {
        LINE,
        "teacher-deit-cait says this",
    }


def test_files_that_are_gone_since_they_were_listed_end_nothing(folder):
    state = folder.directory / "state/deit-cait/A/2-epochs/seed-2-3d33bf53.pt"
    for path in (state, folder.directory / "logs/gone.txt"):
        path.symlink_to(folder.directory / "nowhere")  # is listed, and cannot be read
    said = watch.look(folder)
    assert "seed-3-3d33bf53: step 150" in said and LINE in said and "silent" not in said


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


def test_tensorboard_gets_this_configuration_alone_and_reads_each_file_once(
    folder, tmp_path, monkeypatch
):
    write_records(folder, folder.directory / "records")
    shutil.rmtree(folder.directory / "cells")
    read = []
    monkeypatch.setattr(
        events_of, "metrics_of", lambda *given: read.append(given[1]) or metrics_of(*given)
    )
    run = unpack(record_path(folder.directory / "records", (*TRAINING, "none", 0))).run
    other = run["configuration"] | {"epochs": 3}  # of another day
    stranger = {"fingerprint": fingerprint(other), "configuration": other}
    for changed in (stranger, {"pair": "of-nobody"}, {"recipe_name": "of-nobody"}):
        key = Recorded(run | changed, "").key
        path = record_path(folder.directory / "records", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        metrics = "epoch,step\n1,100\n"
        files = run["files"] | {"metrics.csv": hashlib.sha256(metrics.encode()).hexdigest()}
        path.write_text(pack(Recorded(run | changed | {"files": files}, metrics)), "utf-8")
    for seed in (1, 2):  # so that the stranger is the only one of its row
        record_path(folder.directory / "records", (*TRAINING, "none", seed)).unlink()
    events = Events(tmp_path / "events")
    for _ in range(2):
        watch.look(folder, events)
    assert sorted(read) == [(*TRAINING, m, s) for m in ("manifold", "soft_kd") for s in range(3)]
    assert not (tmp_path / "events/of-nobody").exists()


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
