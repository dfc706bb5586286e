"""The rehearsal of detection: a real run's code on images that it makes, and what it counts."""

import json
import subprocess

import pandas as pd
import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmengine.device import get_device
from mmengine.device import utils as mmengine_device
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from pycocotools.coco import COCO
from torch import nn

from benchmarks.detection.cells import DetectorCell
from benchmarks.detection.configuration import configure
from benchmarks.detection.prepare import prepare
from benchmarks.detection.rehearsal import PARTS
from benchmarks.detection.rehearsal.detectors import weigh
from benchmarks.detection.rehearsal.folder import coco_folder, make
from benchmarks.detection.rehearsal.published import check_published, published_row
from benchmarks.detection.rehearsal.run import StepRecord, rehearse, rehearsed, run, schedule
from benchmarks.detection.rehearsal.table import gpu_hours
from benchmarks.detection.train import build_runner, choose_device, train
from manifold.errors import UserError
from manifold.settings import ROOT, derived, resolve, to_plain, write_experiment

pytestmark = pytest.mark.slow

PAIR = "deit-cait"
# Of COCO's annotation files: the first and the last category, and those around the gaps.
COCO_IDS = {1: "person", 11: "fire hydrant", 13: "stop sign", 28: "umbrella", 31: "handbag"}
COCO_IDS |= {44: "bottle", 67: "dining table", 70: "toilet", 72: "tv", 84: "book", 90: "toothbrush"}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    made = resolve({"scale": "smoke", "name": "small", "results": str(results)})
    make(made)
    return made


@pytest.fixture(scope="module")
def study(experiment):
    return experiment.studies["rehearsal_detection"]


@pytest.fixture(scope="module")
def found(experiment, study):
    records = {}
    for detector in experiment.detection.detectors:
        run(experiment, PAIR, detector)
        records[detector] = json.loads(study.record(PAIR, detector).read_text(encoding="utf-8"))
    return records


def test_the_folder_is_laid_out_as_cocos(experiment, study):
    truth = COCO(coco_folder(experiment).train_annotations)
    names = {number: entry["name"] for number, entry in truth.cats.items()}
    assert len(names) == 80 and COCO_IDS.items() <= names.items()
    (image,) = truth.imgs.values()
    assert [image["width"], image["height"]] == study.settings.jpeg_size
    crowds = [entry for entry in truth.anns.values() if entry["iscrowd"]]
    objects = [entry for entry in truth.anns.values() if not entry["iscrowd"]]
    assert len(crowds) == 1 and len(objects) == study.settings.objects
    mask = truth.annToMask(crowds[0])
    x, y, width, height = crowds[0]["bbox"]
    assert mask.sum() == width * height == mask[y : y + height, x : x + width].sum()
    assert [len(entry["segmentation"]) for entry in objects] == [2] + [1] * (len(objects) - 1)
    for entry in objects:  # the box is around the polygons
        rows, columns = truth.annToMask(entry).nonzero()
        x, y, width, height = entry["bbox"]
        tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert tight == pytest.approx((x, y, x + width, y + height), abs=1.5)


def test_a_real_run_is_gone_through_to_the_files_of_its_cell(found):
    for detector, record in found.items():
        assert record["steps"] == 1 and 0 < record["loss"] < 100 and record["frozen"] == []
        assert {"detector.safetensors", "metrics.csv", "run.json"} <= set(record["files"])
        assert record["images"] == [[3, 24, 32]], detector  # 48×64, resized to 32
        assert all(record["predictions"].values())
        assert record["step_seconds"] > 0 and 0.1 < record["peak_memory_gib"] < 16
    assert found["mask_rcnn"]["predictions"].keys() == {"bbox", "segm"}
    assert found["retinanet"]["predictions"].keys() == {"bbox"}


def test_no_weights_are_left(study, found):
    left = study.folder.rglob("*.safetensors")
    assert not list(left)


def test_the_whole_schedule_is_the_scales_own(experiment, found):
    """Not the rehearsal's: 8 images in batches of 4, one epoch; and the 1x schedule of COCO."""
    assert found["retinanet"]["schedule_steps"] == 2
    assert found["retinanet"]["schedule_images"] == 8
    coco = resolve({"scale": "coco"})
    for detector in coco.detection.detectors:
        plan = schedule(coco, detector)
        # 7,330 steps an epoch, as in the logs of mmdet's own runs
        assert plan == {
            "epochs": 12,
            "batch": 16,
            "schedule_steps": 12 * 7330,
            "schedule_images": 12 * 117266,
        }


def test_the_table_holds_every_student_and_detector(experiment, study, found):
    study.write()
    rows = pd.read_csv(experiment.directory / "rehearsal_detection.csv")
    assert rows[["pair", "detector"]].values.tolist() == [[PAIR, d] for d in found]
    for kind in ("parameters", "gmacs"):
        parts = sum(rows[f"{kind}_{part}"] for part in PARTS)
        assert parts.tolist() == pytest.approx(rows[f"{kind}_all"].tolist())
    assert rows["gpu_hours"].isna().all() and rows["published_gmacs"].isna().all()
    text = (experiment.directory / "rehearsal_detection.md").read_text(encoding="utf-8")
    assert text.startswith("# Rehearsal of detection, small\n\nEvery student of Table 1")
    assert f"{found['mask_rcnn']['loss']:.3f}" in text


def test_multiply_accumulates_are_those_of_the_formula(experiment):
    """RetinaNet's heads by hand: every convolution at every level."""
    small = rehearsed(experiment, PAIR, "retinanet")
    prepare(small)
    settings = configure(DetectorCell(small, "retinanet", "random", 0))
    weighed = weigh(settings, [32, 32])
    head, classes, anchors = settings.model.bbox_head, 80, 9
    assert (head.feat_channels, head.stacked_convs, head.num_classes) == (64, 2, classes)
    cells = sum((32 // stride) ** 2 for stride in head.anchor_generator.strides)
    stacked = 2 * 2 * 64 * 64 * 9  # two branches of two 3×3 convolutions
    outputs = 64 * 9 * anchors * (classes + 4)
    assert weighed["gmacs"]["heads"] == pytest.approx(cells * (stacked + outputs) / 1e9)
    biases = 2 * 2 * 64 + anchors * (classes + 4)
    assert weighed["parameters"]["heads"] == stacked + outputs + biases


@pytest.mark.parametrize(
    ("pair", "detector", "words"),
    [
        ("untrained-teacher", "retinanet", "pair: unknown 'untrained-teacher'.* Known: deit-cait"),
        (PAIR, "retina", "detector: unknown 'retina'. Did you mean 'retinanet'"),
        (PAIR, "retinanet", "detection/coco is missing; run .* rehearsal_detection folder"),
    ],
)
def test_what_cannot_be_rehearsed_is_said(pair, detector, words, tmp_path):
    with pytest.raises(UserError, match=words):
        run(resolve({"scale": "smoke", "results": str(tmp_path)}), pair, detector)


def test_a_parameter_without_a_gradient_is_named(experiment, monkeypatch):
    """A layer that the loss does not see, and a norm that is frozen."""

    class Padded(MODELS.get("SimpleFeaturePyramid")):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.unused = nn.Linear(1, 1)
            self.norms.requires_grad_(False)

    MODELS.register_module(name="Padded", module=Padded, force=True)
    path = ROOT / experiment.detection.detectors["retinanet"]
    own = experiment.directory / "padded.py"
    text = path.read_text(encoding="utf-8").replace('"SimpleFeaturePyramid"', '"Padded"')
    own.write_text(text.replace('"base.py"', f'"{path.parent / "base.py"}"'), encoding="utf-8")
    changed = derived(experiment, {"detection": {"detectors": {"retinanet": str(own)}}})
    small = rehearsed(changed, PAIR, "retinanet")
    with pytest.raises(UserError, match=r"neck\.unused\.weight, neck\.unused\.bias$"):
        rehearse(experiment, small, "retinanet")


PUBLISHED = pd.Series({"parameters_millions": 48, "gmacs": 267})


@pytest.mark.parametrize(
    ("parameters", "gmacs", "words"),
    [
        (47_794_602, 266.6, None),
        (48_400_000, 269.6, None),
        (48_600_000, 267.0, "48.60 M parameters, published are 48"),
        (47_400_000, 267.0, "47.40 M parameters"),
        (48_000_000, 270.0, "270.0 GMAC"),
        (48_000_000, 264.0, "264.0 GMAC"),
    ],
)
def test_a_detector_is_held_to_the_published_one(parameters, gmacs, words):
    found = {"detector": "mask_rcnn", "network": "swin"}
    found |= {"parameters": {"all": parameters}, "gmacs": {"all": gmacs}}
    if words is None:
        check_published(found, PUBLISHED)
    else:
        with pytest.raises(UserError, match=words):
            check_published(found, PUBLISHED)


def test_the_published_detector_is_found_for_its_own_configuration_alone():
    coco = resolve({"scale": "coco"})
    coco = coco.replaced(networks=str(ROOT / coco.networks))
    pair, network = "swin_tiny-swin_small", "swin_tiny_patch4_window7_224"
    found = {"pair": pair, "network": network, "detector": "mask_rcnn"}
    study = coco.studies["rehearsal_detection"]
    row = published_row(study, found)
    assert (row["parameters_millions"], row["gmacs"]) == (48, 267)
    assert published_row(study, {**found, "detector": "retinanet"}) is None
    assert published_row(study, {**found, "network": "deit_tiny_patch16_224"}) is None
    # 646.76 images a second of 4.51 GMAC are what timm publishes of Swin-T
    found |= {"schedule_images": 3600, "gmacs": {"all": 646.76 * 4.51}}
    assert gpu_hours(coco, found) == pytest.approx(1)


def test_the_published_run_is_of_the_paper_and_fits():
    rows = pd.read_csv(ROOT / "results/published/imagenet/rehearsal_detection.csv")
    coco = resolve({"scale": "coco"})
    pairs = coco.studies["rehearsal_detection"].pairs()
    expected = [[p, d] for p in pairs for d in coco.detection.detectors]
    assert rows[["pair", "detector"]].values.tolist() == expected and len(expected) == 6
    assert (rows["images"] == "800×1333").all() and (rows["peak_memory_gib"] < 16).all()
    swin = rows[rows["published_gmacs"].notna()]
    assert swin[["network", "detector"]].values.tolist() == [
        ["swin_tiny_patch4_window7_224", "mask_rcnn"]
    ]
    hours = rows.set_index(["pair", "detector"])["gpu_hours"]
    docs = " ".join((ROOT / "docs/paper-scale.md").read_text(encoding="utf-8").split())
    for detector, name in (("mask_rcnn", "Mask R-CNN"), ("retinanet", "RetinaNet")):
        assert f"{hours['swin_tiny-swin_small', detector]:.0f} GPU-hours for {name}" in docs


def test_no_norm_of_cocos_detectors_is_decayed(experiment):
    """Names of a pyramid's layers do not say that they are norms; their kinds do."""
    detectors = {"retinanet": "config/detection/coco/retinanet.py"}
    changed = derived(experiment, {"detection": {"detectors": detectors}})
    small = rehearsed(changed, PAIR, "retinanet")
    prepare(small)
    settings = configure(DetectorCell(small, "retinanet", "random", 0))
    model = MODELS.build(settings.model)
    optimizer = build_optim_wrapper(model, settings.optim_wrapper).optimizer
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    network = model.backbone.network
    none = norms | {id(network.pos_embed), id(network.cls_token)}
    assert len(norms) > 20 and decay.keys() == {id(p) for p in model.parameters()}
    assert all(value == (0 if p in none else 0.05) for p, value in decay.items())


def test_the_device_is_the_one_that_is_named(experiment, monkeypatch):
    monkeypatch.setattr(mmengine_device, "DEVICE", "cuda")  # as where it saw a GPU when imported
    choose_device(experiment.machine)
    assert get_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"machine\.device"):
        choose_device(experiment.machine.replaced(device="cuda"))


def test_a_kill_while_a_checkpoint_is_written_costs_one_epoch(experiment, monkeypatch):
    options = {"options": {"train_cfg.max_epochs": 3}}
    longer = derived(experiment, {"detection_rehearsal": options})
    small = rehearsed(longer, PAIR, "retinanet")
    prepare(small)
    cell, save, saved = DetectorCell(small, "retinanet", "random", 0), Runner.save_checkpoint, []

    def save_twice(self, *arguments, **options):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(save(self, *arguments, **options))

    monkeypatch.setattr(Runner, "save_checkpoint", save_twice)
    with pytest.raises(KeyboardInterrupt):
        train(cell)
    monkeypatch.undo()
    record = StepRecord()
    train(cell, record)
    assert record.steps == 1  # the third epoch's


def test_a_checkpoint_that_is_gone_is_not_gone_on_from(experiment):
    small = rehearsed(experiment, PAIR, "retinanet")
    prepare(small)
    cell = DetectorCell(small, "retinanet", "random", 1)
    latest = cell.state / "gone" / "last_checkpoint"
    latest.parent.mkdir(parents=True)
    latest.write_text("", encoding="utf-8")
    build_runner(cell, configure(cell), "gone")
    assert not latest.exists()


def test_two_processes_train_one_detector(experiment, on_path):
    small = rehearsed(experiment, PAIR, "retinanet")
    overrides = {
        "name": "processes",
        "detection": {"data": to_plain(small.detection.data)},
        "machine": {"processes": 2},
    }
    shared = derived(experiment, overrides)
    prepare(shared)
    launch = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "benchmarks", "detection", "train"]
    command += ["detector=retinanet", "method=random", "seed=0"]
    command += ["--experiment", str(write_experiment(shared))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    cell = DetectorCell(shared, "retinanet", "random", 0)
    record = json.loads((cell.directory / "run.json").read_text(encoding="utf-8"))
    assert record["images_seen"] == 1 and record["parameters"] > record["backbone_parameters"] > 0
    assert not cell.state.exists()
