"""Records of detectors: written, taken in, refused; a table is the same from them as from files."""

import json
import re

import pytest
import running
from made_cells import SEEDS, TRAINING, train

from benchmarks.detection import DETECTOR_FILES, Detection
from benchmarks.detection.pictures import draw_pictures, pictured_seed
from benchmarks.evidence.merge import merge
from benchmarks.evidence.records import write_records
from benchmarks.evidence.results import unpack_result
from benchmarks.evidence.students import Verified
from benchmarks.evidence.verify import verify_own_tables
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import CELL_FILES, ROOT, fingerprint, write_experiment
from manifold.settings.recorded import RECORDS, packed, record_path
from manifold.settings.sources import job_hash

ROWS = 2 * 4  # detectors and backbones, a seed


def write_detectors(experiment, seeds, processor="a processor"):
    """Put detectors there as if they had been trained."""
    study = experiment.studies["detection"]
    for row in study.needed_results():
        if row["seed"] not in seeds:
            continue
        folder = study.directory(**row)
        folder.mkdir(parents=True)
        student = study.student(row["method"], row["seed"])
        network = study.student_model
        backbone = {"name": network.name, "arguments": network.arguments}
        configuration = {
            "settings": {"model": {"backbone": backbone}, "detector": row["detector"]},
            "student_sha256": student and sha256(student),
            "data": {split: sha256(study.data_folder / f"{split}.json") for split in study.splits},
        }
        ap = 10.0 + study.backbones.index(row["method"]) * (1 + row["seed"] / 7)
        found = {"ap": ap, "ap50": 2 * ap, "ap75": ap / 2, "ap_random_classes": 1.0}
        run = row | {
            "fingerprint": fingerprint(configuration),
            "configuration": configuration,
            "source_hash": job_hash("benchmarks.detection.train"),
            **{"wall_seconds": 1.0, "images_seen": 16, "epochs": 2},
            **{"parameters": 10, "backbone_parameters": 5},
            "result": {"bbox": found, "segm": found},
            "validation": [{"epoch": 2, "bbox": ap, "segm": ap}],
            "environment": {
                **{"device": "cpu", "processor": processor, "git_commit": "c0ffee"},
                "packages": {"torch": "2"},
            },
            "files": {},
        }
        for name in DETECTOR_FILES[:-1]:
            (folder / name).write_text("[]", encoding="utf-8")
        (folder / DETECTOR_FILES[-1]).write_text(json.dumps(run), encoding="utf-8")


@pytest.fixture
def detectors(make, monkeypatch):
    """Make an experiment with students and detectors of some seeds, its images prepared."""
    from benchmarks.detection.prepare import prepare

    monkeypatch.setattr(Detection, "is_whole", lambda study, wildcards: True)  # it asks mmdet

    def made(name, seeds=(), processor="a processor", **detection):
        experiment = make(name, detection=detection)
        prepare(experiment)
        train(experiment, seeds, ["soft_kd", "manifold"], processor)
        write_detectors(experiment, seeds, processor)
        return experiment

    return made


@pytest.fixture
def halves(detectors, tmp_path):
    """Two halves of a study, as records: two seeds each, and of the second another processor."""
    folders = []
    for name, seeds, processor in (("a", SEEDS[:2], "this one"), ("b", SEEDS[2:], "another")):
        half = detectors(name, seeds, processor)
        folders.append(tmp_path / f"{name}-records")
        write_records(half, folders[-1])
        assert len(list((folders[-1] / "detection").rglob("*.json"))) == ROWS * 2
    return folders


def texts(experiment):
    return experiment.studies["detection"].document().texts("detection")


def recorded_rows(experiment):
    study = experiment.studies["detection"]
    return [row for row in study.needed_results() if study.recorded_result(row) is not None]


@pytest.mark.slow
def test_two_halves_are_the_whole_to_the_letter_without_weights(detectors, halves):
    whole, merged = detectors("whole", SEEDS, "this one"), detectors("merged")
    assert merge(merged, halves).taken == ROWS * 4 + 2 * 4
    assert not (merged.directory / "cells").exists()
    study = merged.studies["detection"]
    assert set(study.results()) - set(study.data_files) == {
        study.own_result_path(row) for row in study.needed_results()
    }
    own, other = texts(merged), texts(whole)
    assert own.keys() == other.keys() and len(own) == 5
    words = "Merged: of the 32 runs, 16 on cpu (another, torch 2), 16 on cpu (this one, torch 2): "
    for name, text in own.items():
        if name.endswith(".csv"):
            assert text == other[name]
        elif name.endswith(".md"):
            assert words in text and "Merged" not in other[name]


def test_records_of_records_are_the_same(detectors, halves, tmp_path):
    merged, again = detectors("merged"), tmp_path / "again"
    merge(merged, halves)
    write_records(merged, again)
    before = {p.relative_to(half): p.read_bytes() for half in halves for p in half.rglob("*.json")}
    assert before == {p.relative_to(again): p.read_bytes() for p in again.rglob("*.json")}
    done = merge(merged, halves)
    assert (done.taken, done.known) == (0, len(before) - 1)  # and the teacher


def test_what_is_missing_is_trained_and_what_is_drawn_is_here(detectors, halves):
    merged = detectors("merged", [2, 3])
    merge(merged, halves[:1])
    study = merged.studies["detection"]
    assert {row["seed"] for row in recorded_rows(merged)} == {0, 1}
    assert pictured_seed(study) == 2  # a record holds no predictions
    assert len(study.results()) == len(study.data_files) + 2 * ROWS + 2 * ROWS * len(DETECTOR_FILES)
    train(merged, [0], ["soft_kd", "manifold"])
    write_detectors(merged, [0])  # a detector that is trained stands before its record
    assert {row["seed"] for row in recorded_rows(merged)} == {1}
    assert pictured_seed(study) == 0


def test_with_records_alone_the_truth_is_drawn_alone(detectors, halves):
    merged = detectors("merged")
    merge(merged, halves)
    figure = draw_pictures(merged.studies["detection"])
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == ["Ground truth"]
    assert "no detections are here, since records hold none" in figure.get_supxlabel()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "expected"), [(1, {"detection_train": 16}), (2, {})])
def test_a_plan_holds_what_is_not_recorded(detectors, halves, on_path, tmp_path, count, expected):
    merged = detectors("merged")
    merge(merged, halves[:count])
    write_experiment(merged)
    words = ["--cores", "1", "-n", "reproduce_detection", "--configfile", merged.file]
    done = running.snakemake(tmp_path, *words, "-s", ROOT / "Snakefile")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.findall(r"^(detection_train|train_\w+) +(\d+)$", done.stdout, re.MULTILINE)
    found = {rule: int(number) for rule, number in jobs}
    trained = {rule: number for rule, number in found.items() if rule.startswith("train_")}
    assert {rule: number for rule, number in found.items() if rule not in trained} == expected
    assert sum(trained.values()) == (2 if count == 1 else 0)  # the cohorts of seeds 2 and 3


def row_of(method, seed=0):
    return {"detector": "retinanet", "method": method, "seed": seed}


def test_a_record_is_of_the_student_that_is_here(detectors, halves):
    merged = detectors("merged")
    merge(merged, halves)
    train(merged, [0], ["manifold"])
    assert len(recorded_rows(merged)) == 4 * ROWS  # the same bytes
    weights = merged.cell_directory(*TRAINING, "manifold", 0) / CELL_FILES[0]
    weights.write_bytes(b"of another training")
    every = merged.studies["detection"].needed_results()
    rows = [row for row in every if row not in recorded_rows(merged)]
    assert rows == [
        {"detector": detector, "method": "manifold", "seed": 0}
        for detector in ("mask_rcnn", "retinanet")
    ]


@pytest.mark.parametrize(
    ("stale", "now", "is_kept"),
    [
        ("keep", "0" * 64, True),
        ("retrain", "0" * 64, False),
        ("keep", f"{'0' * 64}+{'1' * 64}", False),  # a user's own module was edited
    ],
)
def test_a_record_is_of_code_that_is_kept(detectors, halves, monkeypatch, stale, now, is_kept):
    merged = detectors("merged")
    merge(merged, halves)
    monkeypatch.setattr("manifold.settings.made_by.job_hash", lambda module: now)
    changed = merged.replaced(stale=stale)
    assert bool(recorded_rows(changed)) is is_kept
    if not is_kept:
        with pytest.raises(UserError, match="made by other code"):
            merge(changed, halves)


def path_of(folder, experiment, method, seed=0):
    return experiment.studies["detection"].result_path(folder, row_of(method, seed))


def repack(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["sha256"]
    change(content)
    path.write_text(packed(content), encoding="utf-8")


def other_options(content):
    content["identity"]["detector"]["options"]["train_cfg.max_epochs"] = 7


def other_configuration(content):
    content["run"]["configuration"]["student_sha256"] = None


def without_a_result(content):
    del content["run"]["result"]


def of_another_place(content):
    content["wildcards"]["seed"] = content["run"]["seed"] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_options, r"detector\.options\.train_cfg\.max_epochs is 7 there and 1 here; leave"),
        (other_configuration, "was altered: its configuration is not that of its fingerprint"),
        (without_a_result, "is no record of a result: its result is None; leave it out"),
        (lambda content: content["run"].update(result={}), "it holds no number; leave it out"),
        (lambda content: content["run"]["result"].update(bbox=None), "its result of bbox is None"),
        (
            lambda content: content["run"]["result"]["bbox"].update(ap=float("nan")),
            "its ap of bbox is nan",
        ),
        (lambda content: content["run"].update(environment=None), "its environment is None"),
        (lambda content: content["run"].update(configuration=None), "its configuration is None"),
        (lambda content: content["run"]["configuration"].pop("data"), "its data is None"),
        (lambda content: content.update(study=[]), "it does not say of what it is"),
        (lambda content: content.update(run=3), "it holds no run"),
        (lambda content: content.pop("run"), "is no record: it holds"),
        (lambda content: content["wildcards"].update(seed=1), "its seed is not that of its run"),
        (of_another_place, "is of another result: detector retinanet, method manifold, seed 1"),
    ],
)
def test_what_is_no_record_of_its_place_is_refused_by_name(
    detectors, halves, change, words, tmp_path
):
    merged = detectors("merged")
    path = path_of(halves[0], merged, "manifold")
    repack(path, change)
    with pytest.raises(UserError, match=words) as refused:
        merge(merged, halves)
    assert str(path) in str(refused.value)
    assert not (merged.directory / RECORDS).exists()  # all, or none


def test_an_edited_record_is_refused(detectors, halves):
    merged = detectors("merged")
    path = path_of(halves[0], merged, "random")
    path.write_text(path.read_text(encoding="utf-8").replace("10.0", "99.0"), encoding="utf-8")
    with pytest.raises(UserError, match=f"{path} was altered since it was written"):
        merge(merged, halves)


def test_a_detector_is_refused_without_its_student_or_with_another(detectors, halves):
    merged = detectors("merged")
    record = record_path(halves[0], (*TRAINING, "manifold", 0))
    kept = record.read_bytes()
    record.unlink()
    with pytest.raises(UserError, match="deit-cait/A/2/manifold/0, of which neither file nor rec"):
        merge(merged, halves)
    record.write_bytes(kept)
    train(merged, [1], ["soft_kd"])
    weights = merged.cell_directory(*TRAINING, "soft_kd", 1) / CELL_FILES[0]
    weights.write_bytes(b"of another training")
    run = weights.with_name("run.json")
    content = json.loads(run.read_text(encoding="utf-8"))
    content["files"][weights.name] = sha256(weights)
    run.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="another file of the student deit-cait/A/2/soft_kd/1"):
        merge(merged, halves)


def test_a_second_result_of_one_detector_is_refused(detectors, halves):
    merged = detectors("merged")
    merge(merged, halves)

    def better(content):
        content["run"]["result"]["bbox"]["ap"] += 1

    repack(path_of(halves[1], merged, "random", seed=3), better)
    with pytest.raises(UserError, match=r"random/seed-3.json says .* is here .*; leave one of"):
        merge(merged, halves)


def test_records_of_other_detectors_are_left_out(detectors, halves):
    merged = detectors("merged", detectors={"mask_rcnn": None})
    done = merge(merged, halves)
    assert done.foreign == ROWS // 2 * 4
    assert {row["detector"] for row in recorded_rows(merged)} == {"retinanet"}


def test_a_damaged_record_is_told_while_planning(detectors, halves):
    merged = detectors("merged")
    merge(merged, halves)
    path = path_of(merged.directory / RECORDS, merged, "random")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="is no record"):
        merged.studies["detection"].results()


def test_a_record_of_other_images_is_told_by_the_table(detectors, halves):
    merged = detectors("merged")
    merge(merged, halves)
    study = merged.studies["detection"]
    (study.data_folder / "test.json").write_text("{}", encoding="utf-8")
    assert not recorded_rows(merged)
    record = path_of(merged.directory / RECORDS, merged, "random").parents[2]
    words = f"{record}/mask_rcnn/random/seed-0.json is of others than the test images that are here"
    with pytest.raises(UserError, match=words):
        study.document()
    with pytest.raises(UserError, match="was made of others than the test images"):
        merge(merged, halves)


def test_detectors_that_were_trained_otherwise_are_not_mixed(detectors, halves):
    merged = detectors("merged")

    def longer(content):
        run = content["run"]
        run["configuration"]["settings"]["train_cfg"] = {"max_epochs": 96}
        run["fingerprint"] = fingerprint(run["configuration"])

    repack(path_of(halves[1], merged, "random", seed=3), longer)
    merge(merged, halves)
    words = (
        r"retinanet: 1 of 16 runs were trained with other settings than the rest \(random, seed 3\)"
        r"; of the first, train_cfg is None in the others and \{'max_epochs': 96\} in it"
    )
    with pytest.raises(UserError, match=words):
        merged.studies["detection"].document()


def test_a_damaged_record_is_told_by_verify(detectors, halves):
    merged = detectors("merged")
    merge(merged, halves)
    path = path_of(merged.directory / RECORDS, merged, "random")
    path.write_text(path.read_text(encoding="utf-8").replace("10.0", "99.0"), encoding="utf-8")
    found = Verified()
    verify_own_tables(merged, found)
    assert found.other == [
        f"{path} was altered since it was written; fetch it anew, or leave it out"
    ]


@pytest.mark.parametrize("change", [{"mean": [0.5]}, {"std": [0.1]}])
def test_how_images_are_normalised_is_of_the_identity(detectors, change):
    study = detectors("merged").studies["detection"]
    of = row_of("none")
    data = study.experiment.data.replaced(**change)
    other = study.experiment.replaced(data=data).studies["detection"]
    assert study.identity_of(of) != other.identity_of(of)


def test_where_a_folder_stands_is_not_of_the_identity(experiment):
    def identity(place):
        files = ("train_images", "train_annotations", "test_images", "test_annotations")
        folder = {name: f"{place}/{name}" for name in files}
        study = experiment(detection={"data": {"scenes": None, "folder": folder}})
        return study.studies["detection"].identity_of(row_of("none"))

    assert identity("/home/a") == identity("/data/b")


def test_a_record_holds_what_its_file_says(detectors, halves):
    found = unpack_result(path_of(halves[0], detectors("merged"), "manifold", seed=1))
    assert found.study == "detection" and found.wildcards == row_of("manifold", 1)
    assert found.run["result"]["bbox"]["ap"] == pytest.approx(10 + 3 * (1 + 1 / 7))
