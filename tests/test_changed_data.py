"""Images that are added, removed or replaced: what was made of others is made anew, never mixed."""

import json
import os
import re

import numpy as np
import pytest
import running
from PIL import Image

from benchmarks.evidence import cells, kept
from benchmarks.evidence.checked import CHECKED, unchecked
from benchmarks.evidence.checked import identity_of as checked_identity
from benchmarks.evidence.provenance import Sources
from manifold.errors import UserError
from manifold.settings import ROOT
from manifold.settings.data_files import files_digest
from manifold.settings.recorded import expected_fingerprint
from manifold.settings.sources import job_hash, source_hash
from manifold.settings.stale import (
    is_cell_made_anew,
    is_job_made_anew,
    is_teacher_made_anew,
    planned_data,
)
from manifold.training import train
from manifold.training.cohort import Cohort

pytestmark = pytest.mark.slow

PAIR = "deit-cait"
PROBES, SOFT_KD = "benchmarks.transfer.probes", "baselines.soft_kd:SoftKD"
OLD, NEW, PIXELS = "files-old", "files-new", "0123"


def write_image(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def folder(tmp_path, looks_each_time):
    """Two classes of 20 training and 4 test images."""
    for place, name in enumerate(("ant", "bee")):
        for number in range(24):
            split = "train" if number < 20 else "val"
            write_image(tmp_path / f"pets/{split}/{name}/{number:02}.png", 24 * place + number)
    return tmp_path / "pets"


def add(folder):
    write_image(folder / "train/ant/new.png", 99)


def remove(folder):
    (folder / "val/bee/23.png").unlink()


def replace_in_place(folder):
    size = (folder / "train/bee/03.png").stat().st_size
    content = (folder / "train/bee/03.png").read_bytes()
    (folder / "train/bee/03.png").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert (folder / "train/bee/03.png").stat().st_size == size


def touch(folder):
    for path in folder.rglob("*.png"):
        os.utime(path, (1, 1))


# ---- what Snakemake compares -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "now", "planned"),
    [
        (None, NEW, NEW),  # nothing is made yet
        ({"data_digest": NEW}, NEW, NEW),  # the same before and after it is made
        ({"data_digest": OLD}, NEW, NEW),
        ({"data_digest": OLD}, None, OLD),  # the data are gone, and the cells complete
        ({"data_digest": PIXELS}, None, None),  # data that cannot change
        ({"data_digest": PIXELS}, NEW, None),  # made before bytes of files counted
        ({}, NEW, None),  # made before there were digests
        (None, None, None),
    ],
)
def test_what_was_made_of_other_files_alone_is_planned_again(record, now, planned):
    assert planned_data(record, now) == planned


@pytest.mark.parametrize("stale", ["keep", "retrain"])
@pytest.mark.parametrize(
    ("change", "is_planned"),
    [(add, True), (remove, True), (replace_in_place, True), (touch, False)],
)
def test_cells_teachers_and_jobs_are_planned_whatever_stale_says(
    change, is_planned, stale, folder, experiment, tmp_path
):
    made = experiment(data={"dataset": "folder", "folder": str(folder)}, stale=stale)
    before = files_digest(made.data, tmp_path)
    key = (PAIR, "A", 1, "soft_kd", 0)
    cell, probes = made.cell_directory(*key) / "run.json", tmp_path / "probes.json"
    teacher = made.teacher_directory(PAIR) / "evaluation.json"
    weights = made.teacher_weights(PAIR)
    for path in (cell, probes, teacher, weights):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in (cell, probes, teacher):
        record = {
            "data_digest": before,
            "fingerprint": expected_fingerprint(made, key),
            "source_hash": job_hash(PROBES) if path == probes else source_hash(SOFT_KD),
        }
        path.write_text(json.dumps(record), encoding="utf-8")

    def made_anew():
        now = files_digest(made.data, tmp_path)
        return [
            is_cell_made_anew(made, key, now),
            is_teacher_made_anew(made, PAIR, "evaluation.json", now),
            is_job_made_anew(made, PROBES, None, [probes], now),
        ]

    assert not any(made_anew())
    change(folder)
    assert made_anew() == [is_planned] * 3


def test_transfer_is_measured_again_on_other_files_of_its_data(folder, experiment):
    data = {"pets": {"dataset": "folder", "folder": str(folder), "validation": 4}}
    study = experiment(transfer={"data": data}).studies["transfer"]
    jobs = {job.name: job for job in study.jobs()}

    def digests():
        return [jobs[name].data_files(data="pets", seed=0) for name in ("probes", "fine-tuning")]

    before = digests()
    touch(folder)
    assert digests() == before
    add(folder)
    assert all(now != earlier for now, earlier in zip(digests(), before, strict=True))


def test_scenes_are_composed_again_of_other_items(folder, experiment):
    study = experiment(data={"dataset": "folder", "folder": str(folder)}).studies["detection"]
    (prepare,) = [job for job in study.jobs() if job.name == "prepare"]
    before = prepare.identity()
    touch(folder)
    assert prepare.identity() == before
    replace_in_place(folder)
    assert prepare.identity() != before


def test_the_check_before_compute_looks_again_at_other_files(folder, experiment, tmp_path):
    made = experiment(data={"dataset": "folder", "folder": str(folder)})
    record = tmp_path / "preflight.json"
    record.write_text(
        json.dumps({CHECKED: {"table1": checked_identity(made, "table1")}}), encoding="utf-8"
    )
    assert unchecked(made, ["table1"], record) == []
    add(folder)
    assert unchecked(made, ["table1"], record) == ["table1"]


# ---- what a job makes anew -------------------------------------------------------------------


@pytest.fixture
def small(folder, experiment):
    return experiment(
        data={"dataset": "folder", "folder": str(folder), "validation": 4},
        recipes={"A": {"batch_size": 4}},
        pairs={PAIR: {"teacher": {"epochs": 1}}},
        machine={"checkpoint_seconds": 0},
    )


def train_teacher(small):
    setting, cells = train.teacher_setting(small, PAIR)
    train.train(setting, cells)
    return json.loads((cells[0].directory / "run.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("change", [add, remove, replace_in_place])
def test_a_cell_of_other_files_is_trained_anew_once(change, small, folder, capsys):
    first = train_teacher(small)
    touch(folder)
    assert train_teacher(small) == first
    assert "is complete" in capsys.readouterr().err
    change(folder)
    second = train_teacher(small)
    assert f"was trained on other files than now stand in {folder}" in capsys.readouterr().err
    assert second["data_digest"] != first["data_digest"]
    assert second["fingerprint"] == first["fingerprint"]
    assert train_teacher(small) == second
    assert "is complete" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"), [(touch, "resuming"), (add, "was begun on other data; starting anew")]
)
def test_a_training_that_was_cut_goes_on_with_the_same_data_alone(
    change, said, small, folder, capsys, monkeypatch
):
    step = Cohort.step

    def step_or_stop(self, images, targets, number, *shards_and_passes):
        if number == 3:
            raise KeyboardInterrupt
        step(self, images, targets, number, *shards_and_passes)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Cohort, "step", step_or_stop)
        train_teacher(small)
    change(folder)
    train_teacher(small)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("of", "stays"), [(NEW, True), (OLD, False), (None, True)])
def test_a_result_of_a_job_stays_if_it_is_of_these_files(of, stays, experiment, tmp_path):
    record = {"fingerprint": "this", "source_hash": job_hash(PROBES), "files": {}}
    record |= {} if of is None else {"data_digest": of}
    (tmp_path / "probes.json").write_text(json.dumps(record), encoding="utf-8")
    asked = (experiment(), PROBES, tmp_path, ("probes.json",), "this", NEW)
    assert kept.is_kept(*asked) is stays


# ---- what a table refuses --------------------------------------------------------------------


def sources_of(*digests):
    found = Sources()
    for number, digest in enumerate(digests):
        record = {"source_hash": source_hash("baselines.sp:SP"), "training_hash": "t"}
        record |= {} if digest is None else {"data_digest": digest}
        found.add(f"row {number // 3}", "sp", number % 3, record)
    return found


@pytest.mark.parametrize(
    "digests",
    [
        [NEW] * 4,
        [PIXELS] * 4,
        [None, NEW, NEW],  # made before there were digests
        [PIXELS, NEW, NEW],  # made before bytes of files counted
    ],
)
def test_runs_of_one_data_or_of_unknown_data_are_shown(digests):
    sources_of(*digests).refuse_mixed_data()


@pytest.mark.parametrize(
    ("digests", "named"),
    [
        ([OLD, OLD, NEW], "row 0 (seed 2)"),
        ([OLD, NEW, NEW, NEW, OLD], "row 0 (seed 0); row 1 (seed 1)"),
        ([PIXELS, PIXELS, "4567"], "row 0 (seed 2)"),
    ],
)
def test_a_table_refuses_runs_of_different_data_and_names_them(digests, named):
    with pytest.raises(UserError) as caught:
        sources_of(*digests).refuse_mixed_data()
    for part in (f"of the {len(digests)} runs were made on other data", named, "run snakemake"):
        assert part in str(caught.value)


def test_runs_of_one_method_and_seed_of_two_pairs_are_told_apart(experiment, monkeypatch):
    def found(_experiment, pair, *_of):
        digest = {"deit-cait": OLD, "small-teacher": NEW}[pair]
        return {"sp": {0: {"data_digest": digest, "source_hash": "s", "training_hash": "t"}}}

    monkeypatch.setattr(cells, "collect", found)
    study = experiment().studies["table1"]
    for pair in ("deit-cait", "small-teacher"):
        study.collect(pair, "A", 2)
    with pytest.raises(UserError, match="1 of the 2 runs were made on other data"):
        study.sources.refuse_mixed_data()


def test_runs_that_are_alike_are_listed_together():
    found = Sources()
    for method in ("none", "sp", "dkd"):
        for seed in (0, 1, 2):
            code = "new" if seed == 2 or method == "dkd" else "old"
            record = {"source_hash": "s", "training_hash": code}
            found.add(f"{method}, deit-cait, recipe A, 2 epochs", method, seed, record)
    assert found.words().startswith("Mixed: 4 of the 9 runs were made by other code than the rest")
    assert ": none, sp (deit-cait, recipe A, 2 epochs, seed 0, 1); --config" in found.words()


def test_of_two_runs_the_one_that_trained_as_the_others_did_is_usual():
    found = Sources()
    for method, seed, code in (("sp", 0, 1), ("sp", 1, 1), ("dkd", 0, 1), ("dkd", 1, 2)):
        record = {"source_hash": f"{method} {code}", "training_hash": f"training {code}"}
        found.add(method, method, seed, record)
    assert found.words().startswith("Mixed: 1 of the 4 runs were made by other code than the rest")
    assert ": dkd (seed 1); --config" in found.words()


def test_results_on_several_data_sets_are_compared_on_each():
    found = Sources()
    for name, digest in (("pets", OLD), ("cars", NEW)):
        for seed in (0, 1):
            found.add_job("probes", "probes", seed, {"data_digest": digest}, name)
    found.refuse_mixed_data()
    found.add_job("more", "probes", 2, {"data_digest": OLD}, "cars")
    with pytest.raises(UserError, match=r"other data of cars .* more \(seed 2\)"):
        found.refuse_mixed_data()


# ---- the whole way ---------------------------------------------------------------------------


def test_a_second_run_after_images_were_added_trains_anew_and_a_third_does_nothing(
    folder, tmp_path, on_path
):
    words = [
        "scale=smoke",
        "name=s",
        f"data={{dataset: folder, folder: {folder}, validation: 4, verify: true}}",
        "methods=[none, soft_kd]",
        "recipes={A: {batch_size: 8}, B: {batch_size: 8}}",
        "table1={epochs: 1, claims: {deit-cait: {none: no-distillation}}}",
        "pairs={deit-cait: {teacher: {epochs: 1}}}",
    ]

    def snakemake(*options, seeds="[0, 1]"):
        done = running.snakemake(
            tmp_path,
            *("--cores", "1", "reproduce_table1", "--snakefile", ROOT / "Snakefile", *options),
            *("--config", *words, f"seeds={seeds}"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def digests():
        records = (tmp_path / "results/s").rglob("run.json")
        return [json.loads(path.read_text(encoding="utf-8"))["data_digest"] for path in records]

    snakemake()
    (old,) = set(digests())
    touch(folder)
    assert "Nothing to be done" in snakemake("-n")
    add(folder)
    remove(folder)
    said = snakemake(seeds="[0, 1, 2]")
    planned = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    trained = {rule: int(count) for rule, count in planned.items() if rule != "total"}
    assert trained == {
        "reproduce_table1": 1,
        "table1": 1,
        "train_teacher": 1,
        "evaluate_teacher": 1,
        "train_deit_cait_A_1_0": 2,
        "train_deit_cait_A_1_1": 1,  # the third seed is trained in two parts
        "train_deit_cait_A_1_2": 1,
    }
    (new,) = set(digests())
    assert new != old and len(digests()) == 7
    assert "Nothing to be done" in snakemake("-n", seeds="[0, 1, 2]")
