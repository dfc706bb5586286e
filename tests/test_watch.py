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
from benchmarks.evidence import underway, watch
from benchmarks.evidence.asked import ASKED, read_asked, write_asked
from benchmarks.evidence.cells import metrics_of
from benchmarks.evidence.events import Events
from benchmarks.evidence.records import write_records
from benchmarks.segmentation import PROTOCOLS
from benchmarks.segmentation.cells import SegmenterCell
from benchmarks.transfer import FINE_TUNING
from manifold.errors import MARK, UserError
from manifold.settings import fingerprint
from manifold.settings.recorded import Recorded, pack, record_path, unpack
from manifold.training import progress

LINE = "seed 3, none +2 [epoch 2/2]: 60/100 steps, 2.50 s/step, 1 min 40 s left"


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
    assert "9 of the 12 students of all studies of scale study are done (no file says" in said
    assert "by study, which share students: table1 9 of 12\n" in said
    assert "none" in said and "3 of 4        70.00 70.14 70.29" in said
    assert "deit-cait/A/2-epochs/seed-3-3d33bf53: 160 of 200 steps, about 1 min 40 s left" in said
    assert "on validation images: none 71.50\n" in said and LINE in said
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
    (job,) = underway.running(folder)
    assert (job.done, job.total, job.left, job.said) == (160, 200, 100.0, LINE)
    state.unlink()
    (job,) = underway.running(folder)
    assert (job.name, job.said) == ("cohort-0-deit-cait-A-2-seed-3", LINE)
    assert (job.done, job.total, job.left) == (160, 200, 100.0)


def test_a_checkpoint_that_is_further_than_the_log_counts(folder):
    log = folder.directory / "logs/cohort-0-deit-cait-A-2-seed-3.txt"
    log.write_text(LINE.replace("60/100", "40/100"), encoding="utf-8")
    (job,) = underway.running(folder)
    assert (job.done, job.total, job.left) == (150, 200, 100.0)


@pytest.mark.parametrize(
    "line, done, total, left",
    [
        # of the whole training, not of its first epoch
        ("seed 0, kd [epoch 1/3]: 430/860 steps, 10.0 step/s, 43 s left", 430, 2580, 215.0),
        ("seed 0, teacher [epoch 2/2]: 10/20 steps, 2.00 s/step, took 20 s", 30, 40, 20.0),
        (
            "retinanet none seed 1: 25/100 steps, 5.00 s/step, 6 min 15 s left, loss 1.2",
            25,
            100,
            375,
        ),
        ("make train scenes: 30/40 scenes, 2.00 scene/s, 5 s left", 30, 40, 5.0),
        ("find copies: 30/40 batches, 2.00 batch/s, 5 s left", 30, 40, 5.0),
    ],
)
def test_the_time_that_is_left_is_of_the_whole_training(line, done, total, left):
    pace = underway.pace_of(f"resuming\n{line}\na warning: 3/4 of it\n")
    assert (pace.done, pace.total, pace.left) == (done, total, pytest.approx(left))


def test_what_progress_writes_is_what_is_read(capsys, monkeypatch):
    now = iter([0.0, 20.0, 40.0, 60.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    shown = progress.progress(what="seed 0, kd [epoch 2/3]", unit="step", total=10)
    shown.set_postfix(loss="1.200")
    shown.update(2)
    pace = underway.pace_of(capsys.readouterr().err)
    assert (pace.done, pace.total, pace.left) == (12, 30, 180.0)
    shown.update(8)
    shown.close()
    pace = underway.pace_of(capsys.readouterr().err)
    assert (pace.done, pace.total, pace.units) == (20, 30, "steps")


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
    job, _ = sorted(underway.running(folder), key=lambda job: job.done)
    assert job.name == f"segmentation/{protocol}-soft-kd-seed-0"
    assert (job.done, job.total, job.left, job.accuracies, job.curves) == (15, None, None, {}, {})
    assert job.said == "segmentation-train-soft-kd-0 says this"
    assert f"{job.name}: 15 steps, time left not known yet" in watch.look(folder)


def test_what_is_fine_tuned_has_its_own_log(folder):
    state = folder.directory / "state/transfer/digits/seed-0-3d33bf53.pt"
    state.parent.mkdir(parents=True)
    rows = {"none": [{"epoch": 1, "step": 10, "validation_top1": 50.0}]}
    torch.save({"step": 15, "rows": rows, "wall_seconds": 30.0}, state)
    put_log(folder, f"transfer-{FINE_TUNING}-digits-0")
    job, _ = sorted(underway.running(folder), key=lambda job: job.done)
    assert job.said == f"transfer-{FINE_TUNING}-digits-0 says this"
    assert (job.total, job.accuracies, job.curves) == (None, {"none": "50.00"}, {})


def test_the_training_of_an_outside_study_is_shown_by_its_place(folder):
    state = folder.directory / "state/spread/deit-cait/A/last.pt"
    state.parent.mkdir(parents=True)
    rows = {"none": [{"epoch": 1, "step": 10}]}
    torch.save({"step": 15, "rows": rows, "wall_seconds": 30.0}, state)
    put_log(folder, "last")
    job, _ = sorted(underway.running(folder), key=lambda job: job.done)
    assert (job.name, job.done, job.total) == ("spread/deit-cait/A/last", 15, None)
    assert (job.said, job.curves) == ("last says this", {})


def test_a_log_is_known_by_its_whole_name(folder):
    put_log(folder, "cohort-1-cnn-deit-cait-A-2-seed-3")  # of the pair cnn-deit-cait
    (job,) = underway.running(folder)
    assert job.said == LINE
    teacher = folder.directory / "state/deit-cait/teacher.pt"
    torch.save({"step": 15, "rows": {"none": []}, "wall_seconds": 30.0}, teacher)
    put_log(folder, "teacher-deit-cait")
    put_log(folder, "evaluate-teacher-deit-cait")
    assert {job.said for job in underway.running(folder)} == {
        LINE,
        "teacher-deit-cait says this",
    }


def test_files_that_are_gone_since_they_were_listed_end_nothing(folder):
    state = folder.directory / "state/deit-cait/A/2-epochs/seed-2-3d33bf53.pt"
    for path in (state, folder.directory / "logs/gone.txt"):
        path.symlink_to(folder.directory / "nowhere")  # is listed, and cannot be read
    said = watch.look(folder)
    assert "seed-3-3d33bf53: 160 of 200 steps" in said and LINE in said and "silent" not in said


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


# ---- what a run was asked for ----------------------------------------------------------------

DETECTOR = "detection/deit-cait/A/2-epochs/retinanet/random/seed-0"


def ask(experiment, jobs, students=()):
    """Write what a run is asked for, as if it began now."""
    folder = experiment.directory
    paths = [experiment.cell_directory(*key) / "run.json" for key in students]
    below = {f"logs/{log}.txt": outputs for log, outputs in jobs.items()}
    whole = {folder / log: [folder / output for output in own] for log, own in below.items()}
    write_asked(folder, ["reproduce_detection"], [*paths, folder / "nothing.csv"], whole)


def test_cohorts_of_a_seed_that_is_cut_have_their_own_logs(folder):
    """Their logs differ in a number alone, and the newer one is of the cohort that began last."""
    root = folder.directory
    cohorts = {"0": ["none", "soft_kd"], "1": ["fitnet", "manifold"]}
    outputs = {
        f"cohort-{number}-deit-cait-A-2-seed-3": [
            folder.cell_directory("deit-cait", "A", 2, method, 3).relative_to(root) / "run.json"
            for method in methods
        ]
        for number, methods in cohorts.items()
    }
    ask(folder, outputs)
    put_log(folder, "cohort-1-deit-cait-A-2-seed-3")
    saved = {"step": 20, "rows": {method: [] for method in cohorts["1"]}, "wall_seconds": 30.0}
    torch.save(saved, root / "state/deit-cait/A/2-epochs/seed-3-ffffffff.pt")
    first, second = sorted(underway.running(folder), key=lambda job: -job.done)
    assert first.name.endswith("seed-3-3d33bf53") and first.said == LINE
    assert second.name.endswith("seed-3-ffffffff")
    assert second.said == "cohort-1-deit-cait-A-2-seed-3 says this"


def test_a_cohort_of_which_a_part_is_missing_is_one_job(folder):
    """What is missing alone is trained, and its job writes the outputs of all."""
    root = folder.directory
    methods = ["none", "soft_kd", "fitnet"]  # the checkpoint has the first two
    cells = [folder.cell_directory("deit-cait", "A", 2, method, 3) for method in methods]
    outputs = [cell.relative_to(root) / "run.json" for cell in cells]
    ask(folder, {"cohort-0-deit-cait-A-2-seed-3": outputs})
    (job,) = underway.running(folder)
    assert (job.done, job.said) == (160, LINE)


@pytest.mark.parametrize(
    "name, outputs",
    [
        ("detection-train-retinanet-random-0", [f"{DETECTOR}/run.json"]),
        ("transfer-probes-faces-0", ["transfer/faces/probes.json"]),
        ("cost-steps", ["cost/steps.json"]),
        ("segmentation-prepare", ["segmentation/data"]),
        ("teacher-deit-cait", ["teachers/deit-cait/run.json"]),
        ("evaluate-teacher-deit-cait", ["teachers/deit-cait/other.json"]),
        ("detection", ["detection.md", "detection.csv"]),
    ],
)
@pytest.mark.parametrize("text", ["", "loading annotations into memory...\n"])
def test_a_job_whose_log_says_nothing_is_under_way_until_its_outputs_are_there(
    make, name, outputs, text
):
    experiment = make("results")
    folder = experiment.directory
    (folder / "logs").mkdir(parents=True)
    log = folder / f"logs/{name}.txt"
    log.write_text("of an earlier run", encoding="utf-8")
    os.utime(log, (0, 0))
    ask(experiment, {name: outputs, "another": ["else.csv"]})
    assert underway.running(experiment) == []
    log.write_text(text, encoding="utf-8")
    (job,) = underway.running(experiment)
    assert job.name == name and job.said == text.strip()
    said = watch.look(experiment)
    assert f"\n{name}: begun, time left not known yet" in said
    assert "asked for reproduce_detection: 0 of the 2 jobs that were to be done are done" in said
    log.write_text(f"{MARK}the disk is full\n", encoding="utf-8")
    assert underway.running(experiment) == []
    log.write_text(text, encoding="utf-8")
    for output in outputs:
        (folder / output).parent.mkdir(parents=True, exist_ok=True)
        (folder / output).touch()
    assert underway.running(experiment) == []
    assert "1 of the 2 jobs that were to be done are done" in watch.look(experiment)


def test_a_detector_says_its_step_its_time_and_its_accuracy(folder):
    state = folder.directory / "state/detection/mask_rcnn-soft_kd-seed-0/85288e3945f190b4"
    log = put_log(folder, "detection-train-mask_rcnn-soft_kd-0")
    (state / "20261129_193646/vis_data").mkdir(parents=True)
    found = {job.name: job for job in underway.running(folder)}
    job = found["detection/mask_rcnn-soft_kd-seed-0"]
    assert (job.done, job.accuracies, job.said) == (None, {}, f"{log.stem} says this")
    rows = '{"loss": 2.5, "step": 10}\n{"loss": 2.0, "step": 20}\n{"coco/AP": 1.0, "step": 1}\n{"lo'
    (state / "20261129_193646/vis_data/scalars.json").write_text(rows, encoding="utf-8")
    (state / "epoch_1.pth").write_bytes(b"")
    curve = '[{"epoch": 1, "bbox": 1.0}, {"epoch": 2, "bbox": 3.25, "segm": 2.5}]'
    (state / underway.CURVE_FILE).write_text(curve, encoding="utf-8")
    said = watch.look(folder)
    assert "detection/mask_rcnn-soft_kd-seed-0: 20 steps, time left not known yet" in said
    assert "AP (bbox) after epoch 2 3.25, AP (segm) after epoch 2 2.50\n" in said
    line = "mask_rcnn-soft_kd-0: 30/80 steps, 2.00 s/step, 1 min 40 s left, loss 1.234"
    log.write_text(line, encoding="utf-8")
    said = watch.look(folder)
    assert f"{state.parent.name}: 30 of 80 steps, about 1 min 40 s left\n" in said and line in said


def test_of_a_run_that_was_asked_for_a_few_students_these_are_counted(folder):
    training, seeds = ("deit-cait", "A", 2), SEEDS[:2]
    students = [(*training, method, seed) for method in ("none", "manifold") for seed in seeds]
    cell = folder.cell_directory(*students[0]).relative_to(folder.directory)
    ask(folder, {"cohort-0-deit-cait-A-2-seed-0": [f"{cell}/run.json"]}, students)
    said = watch.look(folder)  # one of them is there, and is made anew
    assert "3 of the 4 students and 0 of the 1 jobs that were to be done are done" in said
    assert "soft_kd " not in said.split("\n\n")[0] and "1 of 2        70.14" in said
    (folder.directory / cell / "run.json").touch()
    said = watch.look(folder)
    assert "4 of the 4 students and 1 of the 1 jobs" in said and "70.00 70.14" in said


def test_students_that_are_here_as_records_are_asked_for_too(folder):
    key = ("deit-cait", "A", 2, "none", 0)
    path = record_path(folder.directory / "records", key)
    write_asked(folder.directory, ["all"], [path, folder.directory / "cells"], {})
    assert read_asked(folder.directory).students == [key]


@pytest.mark.parametrize("text", ["", "[]", '{"targets": [], "students": [[1]], "jobs": {}}'])
def test_a_damaged_file_of_what_was_asked_for_is_as_none(folder, text):
    (folder.directory / ASKED).write_text(text, encoding="utf-8")
    assert "(no file says what a run was asked for)" in watch.look(folder)
