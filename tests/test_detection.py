"""Detectors on students: configuration, training, resuming, and the AP that is reported."""

import itertools
import json
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file

from benchmarks.detection import table
from benchmarks.detection.average_precision import average_precision
from benchmarks.detection.cells import DetectorCell
from benchmarks.detection.configuration import configure
from benchmarks.detection.prepare import prepare
from benchmarks.detection.schedule import chosen
from benchmarks.detection.train import begin, build_runner, train, work_folder
from benchmarks.evidence.records import left_out
from benchmarks.evidence.results import pack_result, unpack_result
from manifold import settings
from manifold.errors import UserError
from manifold.files import sha256
from manifold.models import create_model, save_weights
from manifold.settings import ROOT, Model, write_experiment
from manifold.settings.sources import job_hash

pytestmark = pytest.mark.slow

CLASSES = ("disc", "square", "bar")
SIZES = ((40, 30), (24, 36), (33, 33))  # width, height


def draw(folder, split, count, seed):
    """Colour photographs of a kind: shapes on noise, each class in a colour of its own."""
    generator = np.random.default_rng(seed)
    (folder / split).mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
        name = f"{split}-{number}.jpg"
        images.append({"id": 7 * number, "file_name": name, "width": width, "height": height})
        for kind in generator.permutation(len(CLASSES))[:2]:
            side = int(generator.integers(8, 13))
            x, y = (int(generator.integers(0, limit - side)) for limit in (width, height))
            pixels[y : y + side, x : x + side, kind] = 250
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 7 * number,
                    "category_id": 10 + 5 * int(kind),
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(folder / split / name, quality=95)
    categories = [{"id": 10 + 5 * i, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A COCO folder with boxes alone, and the words that point detection at it."""
    folder = tmp_path_factory.mktemp("foreign")
    draw(folder, "train", 12, seed=1)
    draw(folder, "test", 6, seed=2)
    return {
        "scenes": None,
        "folder": {
            "train_images": str(folder / "train"),
            "train_annotations": str(folder / "train.json"),
            "test_images": str(folder / "test"),
            "test_annotations": str(folder / "test.json"),
        },
        "masks": False,
        "channels": 3,
        "verify": True,
    }


OPTIONS = {
    "train_dataloader.dataset.pipeline.2.scale": [40, 40],
    "test_dataloader.dataset.pipeline.1.scale": [40, 40],
    "train_dataloader.batch_size": 4,
    "train_cfg.max_epochs": 2,
    "model.test_cfg.score_thr": 0.0,
}


METHODS = ["none", "soft_kd", "manifold"]


def resolve(results, data, **detection):
    """The smoke scale with detection as given."""
    own = {"data": data, "options": OPTIONS, "methods": METHODS, **detection}
    return settings.resolve(
        {"scale": "smoke", "name": "d", "results": str(results), "detection": own}
    )


def write_students(experiment):
    """Students that were never trained, where the cells of trained ones stand."""
    detection, data = experiment.detection, experiment.data
    shape = (data.channels, data.image_size, data.image_size)
    for method in detection.methods:
        for seed in experiment.seeds:
            torch.manual_seed(seed)
            key = (detection.pair, detection.recipe, detection.epochs, method, seed)
            student = create_model(experiment.pairs[detection.pair].student, shape, 10)
            save_weights(student, experiment.cell_directory(*key) / "student.safetensors")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, foreign):
    experiment = resolve(tmp_path_factory.mktemp("results"), foreign)
    prepare(experiment)
    write_students(experiment)
    return experiment


SWIN = {
    "name": "swin_tiny_patch4_window7_224",
    "arguments": {"patch_size": 2, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]}
    | {"window_size": 2},
}


@pytest.mark.parametrize(
    ("detector", "student", "levels", "regions"),
    [
        # patch 2: scales 2, 1 and 1/2 of one map
        ("mask_rcnn", None, [1, 2, 4], [1, 2, 4]),
        ("retinanet", None, [1, 2, 4], None),
        # stages of strides 2 and 4, and two levels beyond
        ("mask_rcnn", SWIN, [2, 4, 8, 16], [2, 4]),
        ("retinanet", SWIN, [2, 4, 8, 16], None),
    ],
)
def test_anchors_and_regions_have_the_strides_of_the_maps(
    prepared, detector, student, levels, regions
):
    experiment = prepared
    if student:
        pair = prepared.pairs["deit-cait"].replaced(student=Model(**student))
        experiment = prepared.replaced(pairs={"deit-cait": pair})
    settings = configure(DetectorCell(experiment, detector, "random", 0))
    head = settings.model.rpn_head if detector == "mask_rcnn" else settings.model.bbox_head
    assert head.anchor_generator.strides == levels
    model = MODELS.build(settings.model)
    maps = model.extract_feat(torch.zeros(1, 3, 32, 32))
    assert [32 / values.shape[-1] for values in maps] == levels
    if regions:
        assert settings.model.roi_head.bbox_roi_extractor.featmap_strides == regions


def test_what_the_data_decide_is_set(prepared):
    settings = configure(DetectorCell(prepared, "mask_rcnn", "none", 1))
    assert settings.model.type == "FasterRCNN" and "mask_head" not in settings.model.roi_head
    assert settings.model.roi_head.bbox_head.num_classes == len(CLASSES)
    assert len(settings.model.data_preprocessor.mean) == 3
    assert settings.model.data_preprocessor.mean[0] == pytest.approx(255 * 0.305)
    assert settings.train_dataloader.dataset.metainfo.classes == CLASSES
    assert settings.test_evaluator.metric == ["bbox"]
    assert settings.train_cfg.max_epochs == OPTIONS["train_cfg.max_epochs"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"train_dataloader": 3}}, "lacks train_dataloader"),
        ({"options": {"necks": {"plain": None}}}, "'necks' has no 'plain'"),
        ({"detectors": {"retinanet": "config/detection/mini/base.py"}}, "lacks necks"),
        ({"detectors": {"retinanet": "config/detection/none.py"}}, "none.py"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(prepared, foreign, change, words):
    with pytest.raises(UserError, match=words):
        experiment = resolve(prepared.results, foreign, **change)
        configure(DetectorCell(experiment, "retinanet", "random", 0))


@pytest.mark.parametrize(
    ("least_steps", "options", "epochs"),
    [
        (None, {}, 20),  # of the file
        (7, {}, 20),  # 12 images in batches of 4: 3 steps an epoch
        (100, {}, 34),
        (100, {"train_cfg.max_epochs": 2}, 2),
        (100, {"train_cfg": {"max_epochs": 2}}, 2),
    ],
)
def test_few_images_are_trained_for_more_epochs(prepared, least_steps, options, epochs):
    own = {"train_dataloader.batch_size": 4, **options}
    changed = prepared.detection.replaced(options=own, least_steps=least_steps)
    experiment = prepared.replaced(detection=changed)
    settings = configure(DetectorCell(experiment, "retinanet", "random", 0))
    assert settings.train_cfg.max_epochs == epochs


def test_the_detectors_may_have_seeds_of_their_own(foreign):
    study = resolve("r", foreign, seeds=[3, 5]).studies["detection"]
    cells = {path.parent.name for path in [*study.cells(), *study.results()]}
    assert cells == {"seed-3", "seed-5", "data"}
    assert study.identity()["seeds"] == [3, 5]
    others = resolve("r", foreign).studies
    assert others["detection"].seeds == others["table1"].seeds == [0, 1]
    table1 = resolve("r", foreign, seeds=[3, 5]).studies["table1"]
    assert {path.parent.name for path in table1.cells()} == {"seed-0", "seed-1"}


def test_a_missing_student_is_named(prepared):
    cell = DetectorCell(prepared, "retinanet", "manifold", seed=2)  # a seed that was not trained
    with pytest.raises(UserError, match=r"manifold/seed-2/student\.safetensors"):
        configure(cell)


def test_the_students_weights_are_still_there_when_training_begins(prepared, tmp_path):
    """mmengine initialises every module that has ``init_weights``, as timm's networks do."""
    cell = DetectorCell(prepared, "retinanet", "none", 0)
    runner = build_runner(cell, configure(cell), "weights")
    runner._init_model_weights()
    state, student = runner.model.backbone.network.state_dict(), load_file(cell.student)
    first = "patch_embed.proj.weight"
    torch.testing.assert_close(state[first].sum(1), student[first].sum(1))
    for name in state.keys() - {first}:
        assert torch.equal(state[name], student[name]), name


def test_heads_start_alike_on_every_backbone(prepared):
    heads = []
    for method in ("random", "none", "manifold"):
        cell = DetectorCell(prepared, "retinanet", method, 0)
        runner = build_runner(cell, configure(cell), f"heads-{method}")
        runner._init_model_weights()
        heads.append(runner.model.bbox_head.state_dict())
    for other in heads[1:]:
        assert all(torch.equal(other[name], value) for name, value in heads[0].items())


@pytest.fixture(scope="module")
def trained(prepared):
    cell = DetectorCell(prepared, "retinanet", "none", 0)
    train(cell)
    return cell


def test_a_folder_of_others_trains_and_is_measured(trained):
    record = json.loads((trained.directory / "run.json").read_text(encoding="utf-8"))
    assert record["result"].keys() == {"bbox"}
    assert 0 <= record["result"]["bbox"]["ap"] <= 100
    assert record["images_seen"] == 24 and record["configuration"]["student_sha256"]
    assert not trained.state.exists()


def test_ap_is_that_of_pycocotools_and_of_mmdet(trained):
    record = json.loads((trained.directory / "run.json").read_text(encoding="utf-8"))
    annotations = trained.experiment.directory / "detection/data/test.json"
    truth = COCO(str(annotations))
    found = truth.loadRes(str(trained.directory / "predictions.bbox.json"))
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap = record["result"]["bbox"]
    assert (ap["ap"] / 100, ap["ap50"] / 100) == pytest.approx(tuple(evaluation.stats[:2]))


def test_ap_of_predictions_that_are_the_truth_and_of_none(prepared, tmp_path):
    annotations = prepared.directory / "detection/data/test.json"
    entries = json.loads(annotations.read_text(encoding="utf-8"))["annotations"]
    perfect, none = tmp_path / "perfect.json", tmp_path / "none.json"
    perfect.write_text(json.dumps([{**entry, "score": 0.9} for entry in entries]), encoding="utf-8")
    none.write_text("[]", encoding="utf-8")
    assert average_precision(annotations, perfect, "bbox")["ap"] == pytest.approx(100)
    assert average_precision(annotations, none, "bbox")["ap"] == 0
    drawn = average_precision(annotations, perfect, "bbox", class_seed=0)["ap"]
    assert drawn < 60  # three classes: two of three boxes have a wrong one


def test_a_record_is_made_of_a_detector_that_is_whole(trained, foreign, tmp_path):
    study = trained.study
    of = {"detector": "retinanet", "method": "none", "seed": 0}
    record = tmp_path / "record.json"
    record.write_text(pack_result(study.finished_result(of)), encoding="utf-8")
    assert unpack_result(record).run == record_of(trained)  # all that a record is to hold is there
    options = OPTIONS | {"optim_wrapper.optimizer.lr": 1e-4}
    other = resolve(study.experiment.results, foreign, options=options).studies["detection"]
    assert other.finished_result(of) is None
    for path in (
        trained.directory / "predictions.bbox.json",
        trained.student,
        study.data_folder / "test.json",
        study.data_folder / "data.json",
    ):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert study.finished_result(of) is None
        assert left_out(study.experiment, tmp_path, []) == [trained.directory]
        path.unlink()
        assert study.finished_result(of) is None
        path.write_bytes(content)
    assert study.finished_result(of) is not None
    assert not left_out(study.experiment, tmp_path, [study.result_path(tmp_path, of)])


def test_a_finished_detector_is_left_alone_and_a_damaged_one_is_made_again(trained, capsys):
    before = {path.name: sha256(path) for path in trained.directory.iterdir()}
    train(trained)
    assert "is complete" in capsys.readouterr().err
    weights = trained.directory / "detector.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for name in ("0", "of-another-configuration", "zz"):  # what a killed run may have left
        stale = trained.state / name / "predictions.bbox.json"
        stale.parent.mkdir(parents=True)
        stale.write_text("[]", encoding="utf-8")
    train(trained)
    assert "is complete" not in capsys.readouterr().err
    after = {path.name: sha256(path) for path in trained.directory.iterdir()}
    assert {k: v for k, v in after.items() if k not in ("run.json", "metrics.csv")} == {
        k: v for k, v in before.items() if k not in ("run.json", "metrics.csv")
    }


def test_a_detector_of_other_code_is_kept_or_made_anew_as_is_asked(trained, capsys):
    path = trained.directory / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["source_hash"] == job_hash("benchmarks.detection.train")
    path.write_text(json.dumps(record | {"source_hash": "other", "result": {}}), encoding="utf-8")
    train(trained)
    said = capsys.readouterr().err
    assert f"{trained.directory} was made by other code than now stands" in said
    assert f"{trained.directory} is complete" in said
    assert json.loads(path.read_text(encoding="utf-8"))["source_hash"] == "other"
    again = trained.experiment.replaced(stale="retrain")
    train(replace(trained, experiment=again))
    assert "is complete" not in capsys.readouterr().err
    made = json.loads(path.read_text(encoding="utf-8"))
    assert (made["source_hash"], made["result"]) == (record["source_hash"], record["result"])


@pytest.mark.parametrize(("stale", "made_by"), [("keep", "earlier"), ("retrain", "now")])
def test_what_earlier_code_began_goes_on_or_is_thrown_away(prepared, stale, made_by, capsys):
    cell = DetectorCell(prepared.replaced(stale=stale), "retinanet", "none", 1)
    now = begin(cell, "begun")
    assert now == begin(cell, "begun") == job_hash("benchmarks.detection.train")
    checkpoint, begun_by = (work_folder(cell, "begun") / name for name in ("last", "source_hash"))
    begun_by.write_text("earlier", encoding="utf-8")
    checkpoint.write_text("", encoding="utf-8")
    assert begin(cell, "begun") == {"earlier": "earlier", "now": now}[made_by]
    assert checkpoint.is_file() == (stale == "keep")
    is_told = "begun by other code; starting anew" in capsys.readouterr().err
    assert is_told == (stale == "retrain")


def test_a_killed_detector_goes_on_to_the_same_weights(trained, on_path):
    """Killed in its second epoch, after the checkpoint of the first."""
    uninterrupted = sha256(trained.directory / "detector.safetensors")
    (trained.directory / "run.json").unlink()
    words = ["-m", "benchmarks", "detection", "train"]
    words += ["detector=retinanet", "method=none", "seed=0"]
    words += ["--experiment", str(write_experiment(trained.experiment))]
    process = subprocess.Popen(["python", *words], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(trained.state.glob("*/last_checkpoint")):  # written after the first epoch's
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (trained.directory / "run.json").exists()
    command = ["python", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "resuming retinanet-none-0 at step 3\n" in done.stderr  # of 6: the second epoch alone
    assert sha256(trained.directory / "detector.safetensors") == uninterrupted


class Interrupt(Hook):
    """Ends a training in an epoch, when the curve has been written and the checkpoint has not."""

    priority = 80  # between CurveHook's LOW, 70, and the checkpoint's VERY_LOW, 90

    def after_train_epoch(self, runner):
        if runner.epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Detectors on the smoke scale's scenes, trained for two epochs."""

    def make(**options):
        own = {
            "train_cfg.max_epochs": 2,
            "train_cfg.val_interval": 1,
            "model.test_cfg.score_thr": 0.0,
            **options,
        }
        given = {"scale": "smoke", "name": "scenes", "results": str(results)}
        experiment = settings.resolve({**given, "detection": {"options": own}})
        if not (results / "scenes/detection/data/data.json").is_file():
            prepare(experiment)
            write_students(experiment)
        return DetectorCell(experiment, "retinanet", "patch_embedding", 0)

    results = tmp_path_factory.mktemp("scenes")
    return make


def record_of(cell):
    return json.loads((cell.directory / "run.json").read_text(encoding="utf-8"))


def test_ap_on_the_validation_scenes_is_written_epoch_by_epoch_and_survives_a_kill(scenes):
    cell = scenes()
    with pytest.raises(KeyboardInterrupt):
        train(cell, Interrupt())
    (left,) = cell.state.glob("*/validation.json")
    assert [row["epoch"] for row in json.loads(left.read_text(encoding="utf-8"))] == [1, 2]
    train(cell)
    cut, weights = record_of(cell)["validation"], sha256(cell.directory / "detector.safetensors")
    assert [row["epoch"] for row in cut] == [1, 2]
    seldom = scenes(**{"train_cfg.val_interval": 5})
    train(seldom)
    assert record_of(seldom)["validation"] == cut[-1:]  # the last epoch in any case
    assert sha256(seldom.directory / "detector.safetensors") == weights  # it changes nothing


def test_the_validation_scenes_take_the_place_of_the_tests_where_a_choice_is_made(scenes):
    cell = scenes()
    choice = replace(cell, experiment=cell.experiment.replaced(evaluation_split="validation"))
    for made, split in ((cell, "test"), (choice, "validation")):
        found = configure(made)
        assert found.test_evaluator.ann_file.endswith(f"data/{split}.json")
        assert found.test_dataloader.dataset.ann_file == found.test_evaluator.ann_file
        assert found.test_dataloader.dataset.data_prefix.img.endswith(f"data/{split}/")
        assert found.val_evaluator.ann_file.endswith("data/validation.json")
        assert found.val_dataloader.dataset.data_prefix.img.endswith("data/validation/")
        assert found.train_dataloader.dataset.ann_file.endswith("data/train.json")


def test_the_patch_embedding_is_that_of_the_baselines_student(scenes):
    cell = scenes()
    soft_kd = replace(cell, method="soft_kd")
    backbone = configure(cell).model.backbone
    assert backbone.patch_embedding_alone and backbone.weights == str(soft_kd.student)
    assert not configure(soft_kd).model.backbone.patch_embedding_alone
    assert cell.identity(configure(cell)) != soft_kd.identity(configure(soft_kd))
    assert backbone.blocks == 4


def test_a_folder_has_no_validation_images_and_no_curve(prepared):
    found = configure(DetectorCell(prepared, "retinanet", "random", 0))
    assert "val_cfg" not in found and "val_dataloader" not in found
    study = prepared.studies["detection"]
    assert not [path for path in study.files() if "_curve" in path.name]
    assert study.splits == ["train", "test"]


AP = [(4, 10.0), (8, 14.0), (16, 14.9), (32, 15.2)]


def test_a_choice_on_the_validation_scenes_draws_no_curve_of_them():
    table, choice = (
        settings.resolve({"scale": scale}).studies["detection"]
        for scale in ("mini", "mini-detection-rate-choice")
    )
    assert table.splits == choice.splits == ["train", "validation", "test"]
    assert [path for path in table.files() if "_curve" in path.name]
    assert not [path for path in choice.files() if "_curve" in path.name]


@pytest.mark.parametrize(
    ("ap", "least_rise", "epochs"),
    [
        (AP, 2.0, 8),
        (AP, 1.0, 16),  # two small rises are a large one
        (AP, 0.2, None),
        (AP, 6.0, 4),
        ([(4, 10.0), (8, 9.0), (16, 14.0)], 1.0, None),  # nor does a fall end it
    ],
)
def test_the_first_schedule_is_chosen_that_a_longer_one_hardly_betters(ap, least_rise, epochs):
    boxes = pd.Series(dict(ap))
    assert chosen(pd.DataFrame({"bbox": boxes}), least_rise) == epochs
    rising = pd.DataFrame({"bbox": boxes, "segm": 10.0 * np.arange(len(ap))})
    rising.index = boxes.index
    assert chosen(rising, least_rise) is None  # masks still gain


def test_the_grid_of_schedules_differs_in_epochs_alone():
    detectors = settings.resolve({"scale": "mini"}).detection.detectors
    made = settings.resolve({"scale": "mini-detection-choice"})
    study = made.studies["detection_schedule"]
    grid = study.settings.schedules
    assert {entry for own in grid.values() for entry in own} == set(made.detection.detectors)
    for name, entries in grid.items():
        files = [ROOT / made.detection.detectors[entry] for entry in entries]
        base, epochs = Path(detectors[name]).name, []
        for file in files:
            first, second = file.read_text(encoding="utf-8").splitlines()
            assert first == f'_base_ = ["../{base}"]'
            epochs.append(int(re.fullmatch(r"train_cfg = dict\(max_epochs=(\d+)\)", second)[1]))
        assert all(later == 2 * earlier for earlier, later in itertools.pairwise(epochs))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detection_schedule": {"schedules": {"retinanet": ["retinanet-5"]}}}, "two detectors"),
        (
            {"detection_schedule": {"schedules": {"retinanet": ["retinanet-5", "retinanet-6"]}}},
            "schedules.retinanet.*retinanet-6",
        ),
        ({"evaluation_split": "test"}, "needs evaluation_split: validation"),
    ],
)
def test_a_grid_of_schedules_that_chooses_nothing_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        settings.resolve({"scale": "mini-detection-choice", **change})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_cfg.max_epochs": 3}, r"mask_rcnn-8 has .*max_epochs 3, as mask_rcnn-4 has"),
        ({}, r"retinanet-10 differs from retinanet-5 in .*optim_wrapper"),
    ],
)
def test_a_grid_that_changes_something_else_is_refused_before_it_runs(options, words, tmp_path):
    grid = tmp_path / "retinanet-10.py"
    base = (ROOT / "config/detection/mini/schedules/retinanet-10.py").resolve()
    grid.write_text(
        f'_base_ = ["{base}"]\noptim_wrapper = dict(optimizer=dict(lr=0.5))\n', encoding="utf-8"
    )
    made = settings.resolve(
        {
            "scale": "mini-detection-choice",
            "detection": {"options": options, "detectors": {"retinanet-10": str(grid)}},
            "detection_schedule": {"schedules": {"retinanet": GRID}},
        }
    )
    with pytest.raises(UserError, match=words):
        made.studies["detection_schedule"].preflight()


GRID = ["retinanet-5", "retinanet-10"]


def test_the_outcome_of_the_grid_is_written_from_its_records(tmp_path, monkeypatch):
    made = settings.resolve({"scale": "mini-detection-choice", "results": str(tmp_path)})
    ends = {4: 10, 8: 14, 16: 14.5, 32: 14.6, 5: 8, 10: 12, 20: 15, 40: 18}

    def records(study, entry):
        epochs = int(entry.split("-")[1])
        kinds = ["bbox", "segm"] if entry.startswith("mask_rcnn") else ["bbox"]
        result = {kind: {"ap": ends[epochs]} for kind in kinds}
        record = {"epochs": epochs, "result": result}
        return {name: dict.fromkeys(study.seeds, record) for name in study.backbones}

    monkeypatch.setattr(table, "collect", records)
    made.studies["detection_schedule"].write()
    text = (tmp_path / "mini-detection-choice/detection_schedule.md").read_text(encoding="utf-8")
    assert "- mask_rcnn: 8 epochs\n" in text
    assert "- retinanet: AP rises still at 40 epochs" in text
    assert (tmp_path / "mini-detection-choice/detection_schedule.csv").is_file()


def test_gains_are_paired_by_seed(prepared, monkeypatch):
    """Made-up records whose gains are known."""
    values = {"random": (1.0, 2.0), "none": (5.0, 9.0), "soft_kd": (6.0, 8.0), "manifold": (8, 10)}
    values["patch_embedding"] = (3.0, 4.0)

    def record(method, seed):
        result = {"ap": float(values[method][seed]), "ap50": 0.0, "ap75": 0.0}
        return {
            "result": {"bbox": result | {"ap_random_classes": 0.0}},
            **{"parameters": 1, "backbone_parameters": 1, "epochs": 1, "images_seen": 1},
            **{"wall_seconds": 1.0, "fingerprint": "", "environment": {"git_commit": ""}},
            "configuration": {"student_sha256": None},
            "validation": [{"epoch": 1, "bbox": 1.0}],
        }

    monkeypatch.setattr(
        table,
        "collect",
        lambda study, detector: {
            method: {seed: record(method, seed) for seed in (0, 1)} for method in values
        },
    )
    found = table.measure(prepared.studies["detection"])
    rows = found.rows.query("detector == 'retinanet'").set_index("method")
    assert rows.loc["manifold", "gain_mean"] == 2 and rows.loc["none", "gain_mean"] == 0
    assert rows.loc["manifold", "gain_low"] == rows.loc["manifold", "gain_high"] == 2
    assert rows.loc["manifold", "over_random_mean"] == pytest.approx(7.5)
    assert rows.loc["manifold", "over_patch_embedding_mean"] == pytest.approx(5.5)
    assert np.isnan(rows.loc["soft_kd", "gain_mean"].astype(float))
    # none − soft KD is −1, 1, and the controls, which are no methods, are of no family.
    assert rows["p_holm"].dropna().to_dict() == {"none": 1, "manifold": 0}
    assert len(found.curve) == 2 * 5 * 2  # detectors, rows, seeds
    words = table.build(prepared.studies["detection"]).parts[-1][0]
    assert (
        "ahead of random weights: Manifold, decoupled; Patch embedding of Soft KD alone." in words
    )
    assert "behind patch embedding of Soft KD alone: Random weights." in words
    assert "correction over all 2 comparisons, at p < 0.05: Manifold, decoupled" in words


def test_a_runner_of_mmengine_does_the_work():
    """No loop of our own: the module holds mmengine's Runner."""
    from benchmarks.detection import train as module

    assert module.Runner is Runner
