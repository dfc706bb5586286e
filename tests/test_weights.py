"""Weights from outside: what a file may hold, what is translated, and how a teacher sees images.

Checkpoints as torch.save, DeiT and Swin write them; position embeddings of another size; files that
are refused; a teacher with a normalisation of its own; and fetching timm's weights.
"""

import argparse
import hashlib
import json
import os
import re
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.layers import resample_abs_pos_embed
from torch import nn

from manifold.errors import UserError
from manifold.models import create_model, load_weights, save_weights
from manifold.settings import Model, TeacherInput, merge, resolve
from manifold.training.fetch import fetch
from manifold.training.runs import Setting, build_teacher, freeze

PAIR, CLASSES, SHAPE = "deit-cait", 10, (3, 32, 32)
VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
NETWORKS = {
    "deit": Model(name="deit_tiny_patch16_224", arguments=VIT),
    "distilled": Model(name="deit_tiny_distilled_patch16_224", arguments=VIT),
    "cait": Model(name="cait_xxs24_224", arguments=VIT),
    "swin": Model(
        name="swin_tiny_patch4_window7_224",
        arguments={"embed_dim": 12, "depths": (2, 2, 2), "num_heads": (2, 2, 2), "window_size": 4},
    ),
    "regnet": Model(name="regnety_002", arguments={}),
}
PREFIX_TOKENS = {"deit": 1, "distilled": 2, "cait": 0}
FORMATS = {"zip": True, "legacy": False}  # of torch.save: since 1.6, and before


def make(kind="deit", seed=0, shape=SHAPE, classes=CLASSES, **changes):
    """A network in eval mode, of random weights so large that it tells images apart."""
    name, arguments = NETWORKS[kind].name, NETWORKS[kind].arguments
    network = create_model(Model(name=name, arguments={**arguments, **changes}), shape, classes)
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5, generator=generator)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def images(number=3, seed=5):
    return torch.randn(number, *SHAPE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def assert_same_logits(own, other):
    assert torch.equal(own(images()), other(images()))


def saved(content, path, layout="zip"):
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[layout])
    return path


def refused(network, path):
    """The message of the error; the network keeps its weights."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(network, path, "the teacher of pair 'p'")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---- files that would run code ---------------------------------------------------------------


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PAYLOADS = {
    "os.system": lambda trace: Call(os.system, f"touch {trace}"),
    "Path.touch": lambda trace: Call(Path.touch, trace),
    "eval": lambda trace: Call(eval, f"open({str(trace)!r}, 'w').close()"),
}
PLACES = {
    "alone": lambda state, evil: evil,
    "as a tensor": lambda state, evil: {**state, "head.bias": evil},
    "beside the model": lambda state, evil: {"model": state, "args": evil},
    "in the arguments": lambda state, evil: {"model": state, "args": argparse.Namespace(lr=evil)},
    "as a key": lambda state, evil: {"model": state, evil: 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_code_in_a_checkpoint_is_not_run(payload, place, layout, tmp_path):
    trace = tmp_path / "trace"
    content = PLACES[place](make().state_dict(), PAYLOADS[payload](trace))
    path = saved(content, tmp_path / "teacher.pth", layout)
    torch.load(path, weights_only=False)
    assert trace.exists()  # the payload works
    trace.unlink()
    message = refused(make(), path)
    assert "must not run code from a file" in message and ".safetensors" in message
    assert not trace.exists()


# ---- checkpoints of the reference and of DeiT --------------------------------------------------


def checkpoint_of(network, other):
    """What main.py of DeiT and of the reference code writes, under DistributedDataParallel."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4)
    network(images()).sum().backward()
    optimizer.step()
    return {
        "model": {f"module.{name}": value for name, value in network.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"t_initial": 300, "base_values": [5e-4, 5e-4]},
        "epoch": 3,
        "args": argparse.Namespace(lr=5e-4, model="deit_tiny", output_dir="out", gpu=None),
        "model_ema": other.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 12},
    }


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("layout", FORMATS)
def test_a_checkpoint_of_deit_loads_with_its_raw_weights(layout, suffix, tmp_path):
    network, other, target = make(seed=1), make(seed=2), make(seed=3)
    path = saved(checkpoint_of(network, other), tmp_path / f"checkpoint{suffix}", layout)
    load_weights(target, path, "the teacher")
    assert_same_logits(target, network)
    assert not torch.equal(target(images()), other(images()))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "arch": "deit"},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {name: value.half().float() for name, value in state.items()},
    ],
    ids=["plain", "model", "state_dict", "module.", "_orig_mod.", "rounded"],
)
def test_weights_are_found_where_training_scripts_put_them(wrap, tmp_path):
    network, target = make(seed=1), make(seed=3)
    load_weights(target, saved(wrap(network.state_dict()), tmp_path / "x.pth"), "the teacher")
    for name, value in target.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_of_network_comes_back_from_both_formats(kind, tmp_path):
    network = make(kind, seed=1)
    save_weights(network, tmp_path / "x.safetensors")
    saved({"model": network.state_dict()}, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        target = make(kind, seed=2)
        load_weights(target, tmp_path / name, "the teacher")
        assert_same_logits(target, network)


# ---- files that are damaged, or no weights -----------------------------------------------------


def full_file(kind, path):
    state = make().state_dict()
    if kind == "safetensors":
        save_weights(make(), path)
    else:
        saved({"model": state, "epoch": 3}, path, kind)
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.3, 0.7, 0.95, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_damaged(kind, share, tmp_path):
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    content = full_file(kind, path)
    load_weights(make(seed=1), path, "the teacher")  # whole, it loads
    path.write_bytes(content[: int(share * len(content))])
    message = refused(make(), path)
    assert "is damaged" in message and "fetch it again" in message


TEXTS = {
    "text": b"hello world\n",
    "web page": b"<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n",
    "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 22\n",
    "JSON": b'{"error": "Repository not found"}\n',
    "YAML": b"message: Not Found\n",
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_file_is_damaged_and_not_called_dangerous(text, suffix, tmp_path):
    """What a failed download leaves: its author cannot help, fetching it again can."""
    path = tmp_path / f"teacher{suffix}"
    path.write_bytes(TEXTS[text])
    assert "fetch it again" in refused(make(), path)


def test_no_message_advises_to_run_code_from_the_file(tmp_path):
    """timm's own words in such a case are "retry with weights_only=False"."""
    path = saved({"args": Call(os.system, "true")}, tmp_path / "teacher.pth")
    assert "weights_only=False" not in refused(make(), path)


@pytest.mark.parametrize("name", ["absent.pth", "absent/absent.safetensors", "folder.pth"])
def test_a_path_without_a_file_says_so(name, tmp_path):
    (tmp_path / "folder.pth").mkdir()
    message = refused(make(), tmp_path / name)
    assert "no such file for the teacher of pair 'p'" in message and "correct its path" in message


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"model": {}},
        {"model": None},
        {"epoch": 3, "args": argparse.Namespace(lr=1.0)},
        {"model": {"epoch": 3}},
        {"model": {"state_dict": {}}},
        {1: torch.zeros(2)},
        [torch.zeros(2)],
        torch.zeros(2),
        3,
    ],
    ids=str,
)
def test_a_checkpoint_without_tensors_by_name_is_refused(content, tmp_path):
    refused(make(), saved(content, tmp_path / "x.pth"))


def test_the_formats_are_told_apart_by_the_suffix(tmp_path):
    save_weights(make(), tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "x.pth")
    refused(make(), tmp_path / "x.pth")
    refused(make(), saved(make().state_dict(), tmp_path / "y.safetensors"))


# ---- weights of another network ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "other", "changes", "words"),
    [
        ("deit", "deit", {"depth": 3}, ["blocks.2.attn.proj.bias: expected nothing, got (24,)"]),
        ("deit", "deit", {"depth": 1}, ["blocks.1.attn.proj.bias: expected (24,), got nothing"]),
        ("deit", "deit", {"embed_dim": 32}, ["blocks.0.attn.proj.bias: expected (24,), got (32,)"]),
        ("deit", "deit", {"shape": (1, 32, 32)}, ["expected (24, 3, 8, 8), got (24, 1, 8, 8)"]),
        ("deit", "distilled", {}, ["dist_token: expected nothing, got (1, 1, 24)"]),
        ("distilled", "deit", {}, ["dist_token: expected (1, 1, 24), got nothing"]),
        ("deit", "cait", {}, ["(VisionTransformer)", "expected nothing, got ("]),
        ("cait", "cait", {"depth": 1}, ["(Cait)", "blocks.1.attn.proj.bias"]),
        ("swin", "swin", {"depths": (2, 4, 2)}, ["(SwinTransformer)", "layers.1.blocks.2."]),
        ("swin", "regnet", {}, ["(SwinTransformer)"]),
        ("regnet", "deit", {}, ["(RegNet)"]),
    ],
)
def test_weights_of_another_network_are_refused(kind, other, changes, words, tmp_path):
    """The message names the first tensors that differ, with both shapes."""
    save_weights(make(other, **changes), tmp_path / "x.safetensors")
    message = refused(make(kind), tmp_path / "x.safetensors")
    for word in (*words, "tensors differ", "make the model's name and arguments those of the file"):
        assert word in message


@pytest.mark.parametrize(
    ("kind", "changes", "tensor"),
    [
        ("deit", {"patch_size": 4}, "patch_embed.proj.weight"),
        ("deit", {"patch_size": 16}, "patch_embed.proj.weight"),
        ("cait", {"patch_size": 4}, "patch_embed.proj.weight"),
        ("swin", {"patch_size": 2}, "patch_embed.proj.weight"),
        ("swin", {"window_size": 8}, "relative_position_bias_table"),
    ],
)
def test_weights_of_another_patch_or_window_size_are_refused(kind, changes, tensor, tmp_path):
    """They are of another architecture: only position embeddings are resampled."""
    save_weights(make(kind, **changes), tmp_path / "x.safetensors")
    assert tensor in refused(make(kind), tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", NETWORKS)
def test_another_class_count_names_both(kind, tmp_path):
    save_weights(make(kind, classes=7), tmp_path / "x.safetensors")
    message = refused(make(kind), tmp_path / "x.safetensors")
    assert "has 7 classes, the data set has 10" in message
    assert "set the teacher's weights to 'train'" in message


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("kind", "tensor"), [("deit", "blocks.1.norm2.bias"), ("regnet", "stem.bn.running_var")]
)
def test_values_that_are_not_finite_are_refused_by_name(kind, tensor, value, tmp_path):
    state = make(kind).state_dict()
    state[tensor].view(-1)[-1] = value
    message = refused(make(kind), saved(state, tmp_path / "x.pth"))
    assert f"has values that are not finite in {tensor}" in message


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("head.weight", torch.tensor(1.0)),
        ("pos_embed", torch.tensor(1.0)),
        ("pos_embed", torch.zeros(24)),
        ("pos_embed", torch.zeros(17, 24)),
        ("pos_embed", torch.zeros(2, 37, 24)),
        ("norm.bias", torch.zeros(0)),
    ],
    ids=lambda value: str(tuple(value.shape)) if isinstance(value, torch.Tensor) else value,
)
def test_a_tensor_of_any_other_shape_is_a_users_error(tensor, value, tmp_path):
    path = saved({**make().state_dict(), tensor: value}, tmp_path / "x.pth")
    assert tensor in refused(make(), path)


# ---- position embeddings -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 24, 48, 80])
@pytest.mark.parametrize("kind", PREFIX_TOKENS)
def test_position_embeddings_of_another_size_are_resampled_by_timm(kind, size, tmp_path):
    source, target = make(kind, seed=1, shape=(3, size, size)), make(kind, seed=2)
    nn.init.normal_(source.pos_embed)
    load_weights(target, saved({"model": source.state_dict()}, tmp_path / "x.pth"), "the teacher")
    prefix = PREFIX_TOKENS[kind]
    assert source.pos_embed.shape[1] == (size // 8) ** 2 + prefix
    got = dict(target.state_dict())
    expected = resample_abs_pos_embed(source.pos_embed, [4, 4], num_prefix_tokens=prefix)
    assert got["pos_embed"].shape == (1, 16 + prefix, 24)
    torch.testing.assert_close(got.pop("pos_embed"), expected.detach(), rtol=0, atol=0)
    assert torch.equal(target.pos_embed[:, :prefix], source.pos_embed[:, :prefix])
    assert got.keys() == source.state_dict().keys() - {"pos_embed"}
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in got.items())


def test_a_linear_position_embedding_stays_linear(tmp_path):
    """Where the grid is made finer, a ramp from left to right is one still, and alike in rows."""
    source, target = make("cait", shape=(3, 32, 32)), make("cait", shape=(3, 64, 64))
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 4, 4, 24)
    source.pos_embed.data.copy_(ramp.reshape(1, 16, 24))
    load_weights(target, saved(source.state_dict(), tmp_path / "x.pth"), "the teacher")
    grid = target.pos_embed.detach().view(8, 8, 24)
    torch.testing.assert_close(grid, grid[:1, :, :1].expand(8, 8, 24), rtol=0, atol=1e-5)
    assert grid[0, :, 0].diff().min() > 0


@pytest.mark.parametrize(
    ("kind", "tokens", "width"),
    [
        ("deit", 17, 32),
        ("deit", 37, 32),
        ("deit", 16, 24),
        ("deit", 38, 24),
        ("deit", 1, 24),
        ("distilled", 17, 24),
        ("cait", 17, 24),
        ("cait", 36, 32),
        ("cait", 0, 24),
    ],
)
def test_a_position_embedding_of_another_width_or_prefix_is_refused(kind, tokens, width, tmp_path):
    network = make(kind)
    state = {**network.state_dict(), "pos_embed": torch.randn(1, tokens, width)}
    shapes = f"expected {tuple(network.pos_embed.shape)}, got {(1, tokens, width)}"
    assert f"pos_embed: {shapes}" in refused(network, saved(state, tmp_path / "x.pth"))


# ---- names of other code bases -----------------------------------------------------------------


def as_original_swin(network):
    """Microsoft's names: downsampling closes a stage, and buffers are part of the checkpoint."""
    state = {}
    for name, value in network.state_dict().items():
        stage = re.match(r"layers\.(\d+)\.downsample", name)
        if stage:
            name = name.replace(stage[0], f"layers.{int(stage[1]) - 1}.downsample")
        state[name.replace("head.fc.", "head.")] = value
    block = "layers.0.blocks.1"
    state[f"{block}.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    state[f"{block}.attn_mask"] = torch.zeros(4, 16, 16)
    return state


def test_the_original_names_of_swin_are_translated(tmp_path):
    network, target = make("swin", seed=1), make("swin", seed=2)
    state = as_original_swin(network)
    assert {"layers.0.downsample.reduction.weight", "head.weight"} <= state.keys()
    assert not {"layers.2.downsample.reduction.weight", "head.fc.weight"} & state.keys()
    load_weights(target, saved({"model": state}, tmp_path / "swin_tiny.pth"), "the teacher")
    assert_same_logits(target, network)


def test_the_original_swin_of_another_class_count_names_both(tmp_path):
    state = as_original_swin(make("swin", classes=7))
    message = refused(make("swin"), saved({"model": state}, tmp_path / "x.pth"))
    assert "has 7 classes, the data set has 10" in message


def test_torchvisions_names_of_regnet_are_translated(tmp_path):
    torch.manual_seed(1)
    network = torchvision.models.regnet_y_400mf(num_classes=CLASSES).eval()
    target = create_model(Model(name="regnety_004", arguments={}), SHAPE, CLASSES).eval()
    load_weights(target, saved(network.state_dict(), tmp_path / "regnet.pth"), "the teacher")
    with torch.no_grad():
        torch.testing.assert_close(target(images()), network(images()))


# ---- a teacher with a normalisation of its own -------------------------------------------------

OWN = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
COLOUR = {"channels": 3, "image_size": 32, **OWN}


def setting_of(experiment, weights=None):
    return Setting(
        experiment=experiment,
        pair=experiment.pairs[PAIR],
        pair_name=PAIR,
        recipe=experiment.recipes["A"],
        recipe_name="A",
        epochs=1,
        seed=0,
        teacher_weights=weights,
        state=Path("unused.pt"),
    )


def seen_by(mean, std):
    given = {"mean": mean, "std": std, "crop": 1.0, "interpolation": "bicubic"}
    return {PAIR: {"teacher": {"input": given}}}


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
        (OWN["mean"], [1.0, 1.0, 1.0]),
        ([0.0, 0.0, 0.0], OWN["std"]),
    ],
)
def test_a_teacher_sees_images_under_its_own_normalisation(mean, std, experiment):
    made = experiment(data=COLOUR, pairs=seen_by(mean, std))
    network = make("cait")
    teacher = freeze(setting_of(made), network)
    raw = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))

    def normalised(mean, std):
        return (raw - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    student_sees = normalised(**OWN)
    before = student_sees.clone()
    with torch.no_grad():
        expected, wrong = network(normalised(mean, std)), network(student_sees)
    got = teacher(student_sees).logits
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (wrong - expected).abs().max() > 1e-3
    assert torch.equal(student_sees, before)
    teacher.watch([1])
    assert teacher(student_sees).tokens[1].shape == (4, 16, 24)
    torch.testing.assert_close(teacher(student_sees).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("given", [None, seen_by(**OWN)], ids=["not given", "given alike"])
def test_with_an_equal_normalisation_nothing_is_rescaled(given, experiment):
    made = experiment(data=COLOUR, **({"pairs": given} if given else {}))
    network = make("cait")
    teacher = freeze(setting_of(made), network)
    assert teacher.rescale is None
    assert torch.equal(teacher(images()).logits, network(images()))


def test_the_rescaled_pass_is_kept_for_the_same_images(experiment):
    made = experiment(data=COLOUR, pairs=seen_by([0.5] * 3, [0.5] * 3))
    network = make("cait")
    teacher, passes = freeze(setting_of(made), network), []
    network.register_forward_hook(lambda *_: passes.append(1))
    batch = images()
    assert teacher(batch) is teacher(batch)
    assert len(passes) == 1


# ---- fetching timm's weights -------------------------------------------------------------------

FETCHED = {PAIR: {"teacher": {"weights": "pretrained"}}}


@pytest.fixture
def timm_gives(monkeypatch):
    """Stand in for timm's download; return the network and the calls."""

    def install(mean=(0.305,), std=(0.376,), classes=CLASSES):
        teacher = resolve({"scale": "smoke"}).pairs[PAIR].teacher.model
        torch.manual_seed(4)
        network, calls = create_model(teacher, (1, 8, 8), classes), []
        own = {"mean": mean, "std": std, "tag": "tag_in1k", "license": "apache-2.0"}
        network.pretrained_cfg = {**network.pretrained_cfg, **own}

        def create(name, **arguments):
            calls.append((name, arguments))
            return network

        monkeypatch.setattr("manifold.training.fetch.timm.create_model", create)
        return network, calls

    return install


def test_fetched_weights_are_written_with_their_record(timm_gives, experiment, monkeypatch):
    network, calls = timm_gives()
    made = experiment(pairs=FETCHED)
    record = fetch(made, PAIR)
    monkeypatch.undo()
    teacher = made.pairs[PAIR].teacher.model
    assert calls == [(teacher.name, {"pretrained": True, **teacher.arguments})]
    path = made.teacher_directory(PAIR) / "pretrained.safetensors"
    assert path == made.teacher_weights(PAIR)
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record["tag"], record["license"]) == ("tag_in1k", "apache-2.0")
    assert (list(record["mean"]), list(record["std"])) == ([0.305], [0.376])
    assert record["architecture"] == teacher.name and record["timm"] == timm.__version__
    written = json.loads(
        (made.teacher_directory(PAIR) / "pretrained.json").read_text(encoding="utf-8")
    )
    assert written == json.loads(json.dumps(record))
    built = build_teacher(setting_of(made, path), CLASSES)
    probe = torch.randn(3, 1, 8, 8)
    assert torch.equal(built(probe).logits, network.eval()(probe))
    assert built.sha256 == record["sha256"]


def test_fetched_weights_of_other_classes_are_refused_where_they_are_used(
    timm_gives, experiment, monkeypatch
):
    timm_gives(classes=7)
    made = experiment(pairs=FETCHED)
    fetch(made, PAIR)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has 7 classes, the data set has 10"):
        build_teacher(setting_of(made, made.teacher_weights(PAIR)), CLASSES)


@pytest.mark.parametrize(
    ("key", "given", "expected"), [("mean", (0.5,), [0.305]), ("std", (0.25,), [0.376])]
)
def test_another_normalisation_than_configured_names_both(
    key, given, expected, timm_gives, experiment
):
    timm_gives(**{key: given})
    made = experiment(pairs=FETCHED)
    with pytest.raises(UserError) as caught:
        fetch(made, PAIR)
    for part in (f"{list(given)}", f"{expected}", f"pairs.{PAIR}.teacher.input.{key}"):
        assert part in str(caught.value)
    assert not made.teacher_directory(PAIR).exists()


def test_the_teachers_own_input_is_what_fetched_weights_are_held_to(timm_gives, experiment):
    timm_gives(mean=(0.5,), std=(0.25,))
    made = experiment(pairs=merge(FETCHED, seen_by([0.5], [0.25])))
    assert made.pairs[PAIR].teacher.input == TeacherInput(
        mean=[0.5], std=[0.25], crop=1.0, interpolation="bicubic"
    )
    fetch(made, PAIR)
    assert made.teacher_weights(PAIR).is_file()
    timm_gives()
    with pytest.raises(UserError, match=r"\[0\.305\].*would see \[0\.5\]"):
        fetch(made, PAIR)


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route"), OSError("offline"), RuntimeError("Invalid pretrained tag")],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_of_the_network_says_what_to_do(error, experiment, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("manifold.training.fetch.timm.create_model", fail)
    made = experiment(pairs=FETCHED)
    with pytest.raises(UserError) as caught:
        fetch(made, PAIR)
    for part in ("'cait_xxs24_224'", str(error), "fetch them on a machine with a network", "path"):
        assert part in str(caught.value)
    assert not made.teacher_directory(PAIR).exists()


@pytest.mark.parametrize("weights", ["train", "file"])
def test_only_pretrained_weights_are_fetched(weights, timm_gives, experiment, tmp_path):
    _, calls = timm_gives()
    path = tmp_path / "own.pth"
    path.touch()
    given = weights if weights == "train" else str(path)
    made = experiment(pairs={PAIR: {"teacher": {"weights": given}}})
    with pytest.raises(UserError, match="only 'pretrained' is fetched") as caught:
        fetch(made, PAIR)
    assert repr(given) in str(caught.value)
    assert calls == []
