"""What would stop the detectors is found before a student is trained: options, data, mmdet."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet")

from benchmarks.detection import check as module
from benchmarks.detection import texts_of
from benchmarks.detection.configuration import known_options, read_settings
from manifold import settings
from manifold.errors import UserError

pytestmark = pytest.mark.slow

MASK_RCNN = "model.roi_head.bbox_head"
MISSPELT = {
    "train_cgf.max_epochs": (3, "Did you mean 'train_cfg'"),
    "train_cfg.max_epoch": (3, "Did you mean 'max_epochs'"),
    "optim_wrapper.optimiser.lr": (0.1, "Did you mean 'optimizer'"),
    "optim_wrapper.optimizer.momentum": (0.9, "nothing reads a key 'momentum'.*betas"),  # of SGD
    "optim_wrapper.clip_grad.max_nrm": (1.0, "Did you mean 'max_norm'"),
    "optim_wrapper.paramwise_cfg.norm_decay_mul": (0.0, "Did you mean 'norm_decay_mult'"),
    "param_scheduler.0.ende": (5, "Did you mean 'end'"),
    "param_scheduler.7.end": (5, "a list of 2, counted from 0; got '7'"),
    "train_dataloader.persistant_workers": (True, "Did you mean 'persistent_workers'"),
    "train_dataloader.dataset.pipeline.2.scal": ([9, 9], "Did you mean 'scale'"),
    "default_hooks.checkpoint.intervall": (2, "Did you mean 'interval'"),
    "env_cfg.cudnn_benchmrk": (True, "Did you mean 'cudnn_benchmark'"),
    "model.backbone.drop_pat": (0.1, "Did you mean 'drop_path'"),
    "model.backbone.block": (4, "Did you mean 'blocks'"),
    "model.test_cfg.rcnn.scor_thr": (0.1, "Did you mean 'score_thr'"),  # of one detector alone
    f"{MASK_RCNN}.fc_out_chanels": (64, "Did you mean 'fc_out_channels'"),
    "scale": ([64, 64], "a variable of the configuration file"),
    "randomness.seed": (3, "the student, the data and the seeds decide it"),
    "train_dataloader.dataset.ann_file": ("x.json", "the student, the data and the seeds decide"),
    "load_from": ("weights.pth", "the student, the data and the seeds decide it"),
    "model.bbox_head.num_classes": (99, "the student, the data and the seeds decide it"),
    "model.roi_head.bbox_head.num_classes": (99, "the student, the data and the seeds decide it"),
    "test_dataloader.dataset.indices": (1, "the student, the data and the seeds decide it"),
    "model.backbone.patch_embedding_alone": (True, "the student, the data and the seeds decide it"),
    "train_cfg.val_begin": (3, "the student, the data and the seeds decide it"),
    "test_evaluator.format_only": (True, "the student, the data and the seeds decide it"),
    "optim_wrapper.clip_grad.max_norm": (-1, "must be a number from 1e-06 to 1e.06; got -1"),
    "model.test_cfg.score_thr": ("abc", "must be a number from 0 to 1; got 'abc'"),
    "model.test_cfg.max_per_img": (0, "must be 1 or more, or -1 for all; got 0"),
    "model.test_cfg.rcnn.max_per_img": (-2, "must be 1 or more, or -1 for all; got -2"),
    "model.test_cfg.nms_pre": (0.5, "must be 1 or more, or -1 for all; got 0.5"),
    "model.test_cfg.rcnn.nms.iou_threshold": (2, "must be a number from 0 to 1; got 2"),
    "train_cfg.max_epochs.x": (3, "cannot be laid over"),
}
KNOWN = {
    "train_cfg.max_epochs": 3,
    "train_cfg": {"max_epochs": 3, "val_interval": 2},
    "optim_wrapper.optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9, "_delete_": True},
    "optim_wrapper.accumulative_counts": 2,
    "optim_wrapper.paramwise_cfg.custom_keys": {".backbone.norm": {"lr_mult": 0.1}},
    "optim_wrapper.clip_grad.norm_type": 1.0,
    "param_scheduler.0.end": 5,
    "train_dataloader.persistent_workers": True,
    "train_dataloader.dataset.pipeline.2.scale": [64, 64],
    "default_hooks.mine": {"type": "EMAHook"},
    "custom_hooks": [{"type": "EMAHook"}],
    "model.backbone.drop_path": 0.1,
    "model.backbone.blocks": 2,
    "model.test_cfg.rcnn.score_thr": 0.1,
    "model.bbox_head.loss_cls.gamma": 1.5,
    "necks.plain.scales": [2, 1],
}


@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet"])
@pytest.mark.parametrize("key", MISSPELT)
def test_an_option_that_nothing_reads_is_an_error(experiment, key, detector):
    value, words = MISSPELT[key]
    for options in ({key: value}, _nested(key, value)):
        made = experiment(detection={"options": options})
        with pytest.raises(UserError, match=f"^detection.options.*{words}"):
            read_settings(made, detector)


def _nested(key, value):
    """An option as mappings in mappings."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("key", KNOWN)
def test_what_mmdet_takes_is_no_error(experiment, key):
    made = experiment(detection={"options": {key: KNOWN[key]}})
    for detector in made.detection.detectors:
        read_settings(made, detector)


def test_an_option_is_laid_over_the_detectors_that_have_its_key(experiment):
    options = {"model.test_cfg.rcnn.score_thr": 0.5, "model.test_cfg.score_thr": 0.25}
    made = experiment(detection={"options": options})
    mask_rcnn, retinanet = (read_settings(made, d) for d in ("mask_rcnn", "retinanet"))
    assert mask_rcnn.model.test_cfg.rcnn.score_thr == 0.5
    assert retinanet.model.test_cfg.score_thr == 0.25
    assert "rcnn" not in retinanet.model.test_cfg and "score_thr" not in mask_rcnn.model.test_cfg
    alone = experiment(detection={"detectors": {"mask_rcnn": None}})
    assert known_options(alone, options) == {"model.test_cfg.score_thr": 0.25}


def test_a_file_below_a_detectors_own_plans_it_again(experiment, tmp_path):
    base, own = tmp_path / "base.py", tmp_path / "own.py"
    base.write_text("train_cfg = dict(max_epochs=4)\n", encoding="utf-8")
    own.write_text(
        '_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "base.py"]\n', encoding="utf-8"
    )
    study = experiment(detection={"detectors": {"own": str(own)}}).studies["detection"]
    before = study.settings_of("own")
    base.write_text("train_cfg = dict(max_epochs=4)  # as told\n", encoding="utf-8")
    assert study.settings_of("own") == before
    base.write_text("train_cfg = dict(max_epochs=5)\n", encoding="utf-8")
    assert study.settings_of("own") != before


# ---- before any training ---------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path, experiment):
    """A folder of two photographs with a box each, and an experiment on it."""
    generator = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    for number in (1, 2):
        name, size = f"{number}.jpg", {"width": 40, "height": 30}
        pixels = generator.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        content["images"].append({"id": number, "file_name": name, **size})
        own = {"image_id": number, "category_id": 1, "bbox": [3, 4, 12, 9]}
        content["annotations"].append({"id": number, **own})

    def make(change=None, **detection):
        if change:
            change(content)
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        folder = {f"{split}_images": str(tmp_path) for split in ("train", "test")}
        folder |= {f"{split}_annotations": str(path) for split in ("train", "test")}
        data = {"scenes": None, "folder": folder, "masks": False, "channels": 3}
        return experiment(detection={"data": data, **detection}).studies["detection"]

    return make


def test_the_preflight_reads_the_data_and_builds_every_detector(photographs, tmp_path, capsys):
    study = photographs()
    study.preflight()
    out, err = capsys.readouterr()
    assert "2 image(s) stand in both" in err
    assert "Average Precision" not in out  # of weights that know nothing
    assert not study.data_folder.exists()  # the job makes it
    study = photographs(lambda content: content["annotations"][1].update(bbox=[0, 0, 90, 9]))
    with pytest.raises(UserError, match=r"boxes.json: 1 fault.*\n.*annotation 2 .*reaches out"):
        study.preflight()


def test_the_preflight_composes_a_scene(experiment):
    experiment().studies["detection"].preflight()
    seldom = {"detectors": {"mask_rcnn": None}, "options": {"train_cfg.val_interval": 0}}
    with pytest.raises(UserError, match=r"cannot be used.*val_interval"):
        experiment(detection=seldom).studies["detection"].preflight()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_cgf.max_epochs": 3}, "Did you mean 'train_cfg'"),
        ({"model.backbone.blocks": 9}, "blocks must be a whole number from 1 to 4.*got 9"),
        ({"train_cfg.max_epochs": "many"}, "retinanet.py cannot be used.*'many'"),
        ({"optim_wrapper.optimizer.type": "Adamm"}, "cannot be used.*Adamm"),
        ({"optim_wrapper.optimizer.lr": -1}, "optimizer.lr: must be a number from 1e-12 to 1000"),
        ({"model.bbox_head.loss_cls.loss_weight": -1}, "loss_weight: must be a number from 0"),
        ({"default_hooks.mine": {"type": "Nothing"}}, "cannot be used.*Nothing"),
        ({"train_dataloader.dataset.pipeline.2.scale": [0, 0]}, "cannot be used"),
        ({"model.test_cfg.rcnn.nms.type": "nonsense"}, "cannot be used.*nonsense"),
        ({"model.test_cfg.nms.type": "nonsense"}, "cannot be used.*nonsense"),
        ({"model.test_cfg.nms_pre": "abc"}, "must be 1 or more"),
        ({"model.train_cfg.rcnn.sampler.num": "abc"}, "cannot be used"),
        ({"model.train_cfg.rpn.assigner.pos_iou_thr": "abc"}, "cannot be used"),
        ({"model.bbox_head.anchor_generator.scales": []}, "cannot be used"),
        ({"optim_wrapper.clip_grad.norm_type": "abc"}, "cannot be used"),
        ({"train_dataloader": {"drop_last": True, "batch_size": 8}}, "2 training image.* one of 8"),
        ({"train_dataloader.num_workers": -1}, "cannot be used.*num_workers"),
        ({"train_dataloader.num_workers": "many"}, "cannot be used"),
        ({"test_evaluator.proposal_nums": "abc"}, "cannot be used"),
        ({"test_evaluator.iou_thrs": "abc"}, "cannot be used"),
        ({"default_hooks.checkpoint.interval": "abc"}, "cannot be used"),
    ],
)
def test_an_option_that_no_detector_can_use_is_an_error_before_any_training(
    photographs, options, words
):
    of_mask_rcnn = any(part in next(iter(options)) for part in ("rcnn", "rpn"))
    other = "retinanet" if of_mask_rcnn else "mask_rcnn"
    study = photographs(options=options, detectors={other: None})
    with pytest.raises(UserError, match=words):
        study.preflight()


def test_photographs_that_the_detector_leaves_out_fill_no_batch(photographs):
    options = {"train_dataloader": {"drop_last": True, "batch_size": 2}}
    filtered = {"train_dataloader.dataset.filter_cfg.filter_empty_gt": True}
    study = photographs(
        lambda content: content["annotations"].pop(),
        options={**options, **filtered},
        detectors={"mask_rcnn": None},
    )
    with pytest.raises(UserError, match=r"1 training image\(s\) of a process do not fill one of 2"):
        study.preflight()


def test_the_trial_leaves_the_loader_that_a_user_asked_for(photographs, monkeypatch):
    """Workers are for the training; the check reads one image by itself."""
    found = []
    monkeypatch.setattr(module, "build_runner", lambda cell, made, digest: found.append(made) or 1)
    options = {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3}
    study = photographs(options={"train_dataloader": options})
    with pytest.raises(UserError, match="cannot be used"):
        study.preflight()
    assert found[0].train_dataloader.num_workers == 0
    asked = read_settings(study.experiment, "retinanet").train_dataloader
    assert {key: asked[key] for key in options} == options


def test_a_section_that_replaces_another_does_so_each_time_and_is_looked_into(experiment):
    given = {"type": "SGD", "lr": 0.01, "momentum": 0.9}
    options = {"optim_wrapper.optimizer": {"_delete_": True, **given}}
    made = experiment(detection={"options": options})
    for _ in range(2):
        assert read_settings(made, "retinanet").optim_wrapper.optimizer.to_dict() == given
    for inside, words in (
        ({"max_norm": -1}, "clip_grad.max_norm: must be a number from"),
        ({"type": "norm", "deep": {"max_norm": 0}}, "clip_grad.deep.max_norm: must be a number"),
    ):
        options = {"optim_wrapper.clip_grad": {"_delete_": True, **inside}}
        made = experiment(detection={"options": options})
        with pytest.raises(UserError, match=words):
            read_settings(made, "retinanet")


def test_files_that_a_configuration_extends_are_held_to_be_text_and_to_end(tmp_path):
    base, own = tmp_path / "base.py", tmp_path / "own.py"
    own.write_text('_base_ = "base.py"\n', encoding="utf-8-sig")
    base.write_bytes("owner = 'José'\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"base\.py is not UTF-8"):
        texts_of(own)
    base.write_text("_base_ = ['own.py']\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.py extends itself by _base_"):
        texts_of(own)


def test_an_epoch_without_an_end_and_a_budget_in_steps_are_refused(photographs):
    endless = {"train_dataloader.sampler": {"type": "InfiniteSampler", "shuffle": True}}
    with pytest.raises(UserError, match="an epoch has no end"):
        photographs(options=endless, detectors={"mask_rcnn": None}).preflight()
    loop = {"_delete_": True, "type": "IterBasedTrainLoop", "max_iters": 10**6}
    steps = {**endless, "train_cfg": loop}
    with pytest.raises(UserError, match="IterBasedTrainLoop counts steps, and the table says"):
        photographs(options=steps, detectors={"mask_rcnn": None}).preflight()


def test_what_trains_on_gpus_alone_takes_its_step_on_a_machine_without(photographs):
    wrapper = {"type": "AmpOptimWrapper", "loss_scale": "dynamic", "dtype": "bfloat16"}
    photographs(options={"optim_wrapper": wrapper}).preflight()


def test_the_scale_for_a_users_folder_is_a_whole_one():
    made = settings.resolve({"scale": "coco-folder"})
    study = made.studies["detection"]
    assert list(made.studies) == ["table1", "detection"]
    assert study.settings.least_steps and study.settings.data.folder
    assert set(study.settings.methods) == set(made.methods)  # no other student is trained
    settings_of_retinanet = read_settings(made, "retinanet")
    assert settings_of_retinanet.train_dataloader.batch_size == 4
