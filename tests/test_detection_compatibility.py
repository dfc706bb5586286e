"""Detectors' checkpoints hold no code, and a training that was cut ends as one that was not."""

import itertools
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from benchmarks.detection import compatibility, train
from manifold.errors import UserError
from manifold.image_files import read_image
from manifold.settings import ROOT

# isort: split
import mmengine.runner.runner
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner, save_checkpoint
from PIL import Image
from torch import nn

pytestmark = pytest.mark.slow  # mmdet's imports take seconds

STEPS_PER_EPOCH, EPOCHS = 4, 3


class Noisy(BaseModel):
    """A linear classifier of images under noise that is drawn as it is trained."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def forward(self, images, labels, mode):
        logits = self.layer(images + torch.randn_like(images))
        return {"loss": nn.functional.cross_entropy(logits, labels)}


class Samples(torch.utils.data.Dataset):
    metainfo = {"classes": ("one", "other")}  # noqa: RUF012 (as mmengine reads it)

    def __len__(self):
        return 2 * STEPS_PER_EPOCH

    def __getitem__(self, index):
        return {"images": torch.randn(4) + index % 2, "labels": index % 2}


class Cut(Hook):
    """Ends the training before a step, as a signal would."""

    def __init__(self, step):
        self.step = step

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step:
            raise KeyboardInterrupt


def runner(folder, name, *hooks, plain=True):
    """A Runner that goes on from its folder's last checkpoint; names must differ in a process."""
    own = [dict(type="PlainCheckpointHook")] if plain else []
    return Runner(
        model=Noisy(),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Samples(),
            batch_size=2,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=True),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=3),
            dict(type="CosineAnnealingLR", eta_min=1e-5, convert_to_iter_based=True),
        ],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2)),
        custom_hooks=[*own, dict(type="EpochSeedHook", seed=3), *hooks],
        randomness=dict(seed=0),
        default_scope="mmdet",
        experiment_name=f"{folder.name}-{name}",
        log_level="ERROR",
        resume=True,
    )


def final(folder):
    return torch.load(folder / f"epoch_{EPOCHS}.pth", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    runner(folder, "training").train()
    return final(folder)


@pytest.mark.parametrize("step", [STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2, 2 * STEPS_PER_EPOCH + 1])
def test_a_training_that_was_cut_ends_as_one_that_was_not(tmp_path, uninterrupted, step):
    with pytest.raises(KeyboardInterrupt):
        runner(tmp_path, "cut", Cut(step)).train()
    resumed = runner(tmp_path, "resumed")
    torch.manual_seed(99)  # another process's generator stands elsewhere
    resumed.train()
    ended = final(tmp_path)
    assert ended["param_schedulers"] == uninterrupted["param_schedulers"]
    for tensors in (lambda c: c["state_dict"], lambda c: c["optimizer"]["state"]):
        torch.testing.assert_close(tensors(ended), tensors(uninterrupted), rtol=0, atol=0)
    for name in ("train/loss", "train/lr"):
        for column, other in zip(
            ended["message_hub"]["log_scalars"][name],
            uninterrupted["message_hub"]["log_scalars"][name],
            strict=True,
        ):
            assert torch.equal(column, other)
            assert len(column) == EPOCHS * STEPS_PER_EPOCH
    assert isinstance(resumed.message_hub.get_scalar("train/loss"), HistoryBuffer)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("epoch_2.pth", lambda path: save_checkpoint({"weights": torch.ones(200, 200)}, path)),
        ("predictions.bbox.json", lambda path: dump([0.25] * 50_000, path)),
    ],
)
def test_what_mmengine_finds_no_space_for_leaves_what_was_there(name, write, tiny_disk):
    path = tiny_disk / name
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{path}: No space left on the disk"):
        write(str(path))
    assert [path.name for path in tiny_disk.iterdir()] == [name]
    assert path.read_text(encoding="utf-8") == "old"


def test_lines_of_losses_that_were_cut_are_left_out(tmp_path):
    log = tmp_path / "20260101_000000" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 2.0, "step": 1}\n{"loss": 1.0, "st', encoding="utf-8")
    assert train._losses(tmp_path).to_dict("list") == {"loss": [2.0], "step": [1]}


def test_a_training_that_was_cut_while_it_wrote_ends_as_one_that_was_not(
    tmp_path, uninterrupted, monkeypatch
):
    """Killed with the second checkpoint half written: mmengine goes on from the first."""
    write = mmengine.runner.runner.save_checkpoint

    def half(checkpoint, path, **options):
        write(checkpoint, path, **options)
        if path.endswith("epoch_2.pth"):
            os.truncate(path, 100)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(mmengine.runner.runner, "save_checkpoint", half)
        runner(tmp_path, "cut").train()
    runner(tmp_path, "resumed").train()
    states = final(tmp_path)["state_dict"], uninterrupted["state_dict"]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_training_that_was_cut_before_it_named_its_checkpoint_goes_on_from_it(
    tmp_path, uninterrupted
):
    with pytest.raises(KeyboardInterrupt):
        runner(tmp_path, "cut", Cut(2 * STEPS_PER_EPOCH)).train()
    os.truncate(tmp_path / "last_checkpoint", 0)
    resumed = runner(tmp_path, "resumed", Cut(2 * STEPS_PER_EPOCH - 1))  # a step of the past
    resumed.train()
    states = final(tmp_path)["state_dict"], uninterrupted["state_dict"]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("scale", ["mini", "coco"])
@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated")
def test_the_suites_detectors_keep_a_checkpoint_while_the_next_is_written(scale):
    settings = Config.fromfile(ROOT / f"config/detection/{scale}/base.py")
    assert settings.default_hooks.checkpoint.max_keep_ckpts == 2


def test_epochs_have_seeds_of_their_own():
    draws = set()
    for seed, epoch, rank in itertools.product(range(2), repeat=3):
        for _ in range(2):  # the second time adds nothing
            hook = compatibility.EpochSeedHook(seed)
            hook.before_train_epoch(SimpleNamespace(epoch=epoch, rank=rank))
            draws.add((random.random(), np.random.rand(), float(torch.rand(()))))
    assert [len(set(column)) for column in zip(*draws, strict=True)] == [8, 8, 8]


def test_checkpoints_hold_no_code(tmp_path):
    """A checkpoint of mmengine's own does: what the hook is for."""
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint
    for plain in (True, False):
        folder = tmp_path / str(plain)
        runner(folder, "training", plain=plain).train()
        assert bool(unsafe(folder / f"epoch_{EPOCHS}.pth")) != plain


def test_a_configuration_in_a_checkpoint_is_not_run(tmp_path):
    runner(tmp_path, "training").train()
    mark, path = tmp_path / "mark", tmp_path / f"epoch_{EPOCHS}.pth"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["meta"]["config"] = f"open({str(mark)!r}, 'w').close()\n"
    torch.save(checkpoint, path)
    runner(tmp_path, "resumed").train()
    assert not mark.exists()
    del checkpoint["message_hub"], checkpoint["meta"]  # weights alone, as published ones are
    torch.save(checkpoint, path)
    runner(tmp_path, "loaded").load_checkpoint(str(path))


@pytest.mark.parametrize(("colour", "mode"), [("color", "RGB"), ("grayscale", "L")])
def test_mmdet_reads_images_as_the_whole_project_does(colour, mode, tmp_path):
    stored = np.zeros((16, 8, 4), dtype=np.uint8)
    stored[:8] = [200, 90, 10, 255]  # the other half is transparent
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "a.png"
    Image.fromarray(stored).save(path, exif=exif)
    step = TRANSFORMS.build({"type": "LoadImageFromFile", "color_type": colour})
    found = step({"img_path": str(path)})
    expected = np.asarray(read_image(path, mode))
    assert found["img_shape"] == found["ori_shape"] == (8, 16)
    assert np.array_equal(found["img"], expected[..., ::-1] if mode == "RGB" else expected)
