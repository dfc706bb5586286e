"""Students as backbones: timm's own features bit for bit, their weights, strides and gradients."""

import pytest
import timm
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet")

from benchmarks.backbones import SimpleFeaturePyramid, evenly_spaced
from benchmarks.detection.backbones import describe
from manifold.errors import UserError
from manifold.models import create_model, load_weights, save_weights
from manifold.settings import Model

# isort: split
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData
from safetensors.torch import load_file, save_file

# name, arguments, image_shape, stride of the first map
VIT = {"patch_size": 7, "embed_dim": 24, "depth": 3, "num_heads": 2}
SWIN = {"patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
STUDENTS = {
    "deit": ("deit_tiny_patch16_224", VIT, (1, 28, 28), 7),
    "distilled": ("deit_tiny_distilled_patch16_224", VIT, (1, 28, 28), 7),
    "lift": ("deit_tiny_lift_patch16_224", {**VIT, "last_width": 36}, (1, 28, 28), 7),
    "wide last": (
        "deit_tiny_wide_last_patch16_224",
        {**VIT, "last_width": 36, "last_heads": 3},
        (1, 28, 28),
        7,
    ),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, (1, 32, 32), 2),
    "deit-tiny": ("deit_tiny_patch16_224", {}, (3, 224, 224), 16),
    "swin-tiny": ("swin_tiny_patch4_window7_224", {}, (3, 224, 224), 4),
}
SMALL = ("deit", "distilled", "lift", "wide last", "swin")
CLASSES = 10
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated"),
]


def network(kind, seed=0, size=None, **changes):
    """A student as it is trained, of random weights so large that they tell images apart."""
    name, arguments, (channels, *own), _ = STUDENTS[kind]
    model = Model(name=name, arguments={**arguments, **changes})
    built = create_model(model, (channels, *(size or own)), CLASSES)
    generator = torch.Generator().manual_seed(seed)
    for value in built.state_dict().values():
        if value.ndim > 1 and value.is_floating_point():
            value.normal_(std=value[0].numel() ** -0.5, generator=generator)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=generator)
    return built.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The student.safetensors of each student."""
    folder = tmp_path_factory.mktemp("students")
    for kind in STUDENTS:
        save_weights(network(kind), folder / f"{kind}.safetensors")
    return lambda kind: folder / f"{kind}.safetensors"


def settings(kind, path, channels=None, **more):
    name, arguments, shape, _ = STUDENTS[kind]
    return {
        "type": "Student",
        "name": name,
        "arguments": arguments,
        "image_shape": shape,
        "weights": path and str(path),
        "channels": channels or shape[0],
        **more,
    }


def backbone(*arguments, **options):
    return MODELS.build(settings(*arguments, **options)).eval()


def images(kind, height, width, channels=None, seed=1):
    channels = channels or STUDENTS[kind][2][0]
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def maps_of(built, pictures, blocks=(-1,)):
    """What timm's network computes on the way to its logits: the maps that its blocks return."""
    found = []
    plain = hasattr(built, "blocks")
    for part in [built.blocks[place] for place in blocks] if plain else built.layers:
        part.register_forward_hook(lambda module, given, output: found.append(output))
    built(pictures)
    if plain:
        grid = [side // built.patch_embed.patch_size[0] for side in pictures.shape[2:]]
        found = [tokens[:, built.num_prefix_tokens :].unflatten(1, grid) for tokens in found]
    return [values.permute(0, 3, 1, 2) for values in found]


def padded(pictures, multiple):
    """Zeros below and on the right, up to the next multiple."""
    height, width = pictures.shape[2:]
    return F.pad(pictures, (0, -width % multiple, 0, -height % multiple))


def assert_equal(own, expected):
    assert len(own) == len(expected)
    for values, other in zip(own, expected, strict=True):
        assert torch.equal(values, other)
        assert values.std() > 0


# ---- features --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STUDENTS)
def test_features_are_timms_own_at_the_students_size(kind, weights):
    """timm's network as the file was made for it, with none of timm's options for other sizes."""
    name, arguments, shape, _ = STUDENTS[kind]
    plain = timm.create_model(
        name, in_chans=shape[0], num_classes=CLASSES, img_size=shape[1:], **arguments
    ).eval()
    plain.load_state_dict(load_file(weights(kind)))
    pictures = images(kind, *shape[1:])
    with torch.no_grad():
        own = backbone(kind, weights(kind))(pictures)
    assert_equal(own, maps_of(plain, pictures))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, size) for kind in ("deit", "distilled") for size in ((56, 84), (61, 30))),
        *(("swin", size) for size in ((40, 56), (45, 67))),
        ("deit-tiny", (250, 198)),
    ],
)
def test_features_at_another_size_are_those_of_a_network_built_for_it(kind, size, weights):
    """Of the picture with zeros up to a whole patch; its positions are resampled when it loads."""
    patch = STUDENTS[kind][3]
    pictures = images(kind, *size)
    expected = network(kind, seed=9, size=padded(pictures, patch).shape[2:])
    load_weights(expected, weights(kind), "the student")
    with torch.no_grad():
        own = backbone(kind, weights(kind))(pictures)
    assert_equal(own, maps_of(expected, padded(pictures, patch)))


def test_swin_keeps_its_windows_at_another_size(weights):
    """Swin-T's last map at 224 is one window, without shift; so it stays on larger images."""
    expected = network("swin-tiny", seed=9, strict_img_size=False)
    load_weights(expected, weights("swin-tiny"), "the student")
    pictures = images("swin-tiny", 250, 198)
    with torch.no_grad():
        own = backbone("swin-tiny", weights("swin-tiny"))(pictures)
    assert_equal(own, maps_of(expected, padded(pictures, 4)))


@pytest.mark.parametrize("kind", SMALL)
def test_features_inside_a_detector_are_timms_own(kind, weights, tmp_path):
    """From the picture's bytes, through mmdet's normalisation and padding, after initialisation."""
    register_all_modules()
    path = tmp_path / "detector.py"
    path.write_text("_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'\n", encoding="utf-8")
    configuration = Config.fromfile(path).model
    configuration.backbone = settings(kind, weights(kind), drop_path=0.2)
    strides, widths = describe(configuration.backbone)
    configuration.neck.update(in_channels=widths, start_level=0, num_outs=5, out_channels=8)
    configuration.bbox_head.update(in_channels=8, feat_channels=8)
    mean, std = 100.0, 50.0
    configuration.data_preprocessor.update(
        mean=[mean], std=[std], bgr_to_rgb=False, pad_size_divisor=strides[-1]
    )
    model = MODELS.build(configuration)
    model.init_weights()
    model.eval()
    picture = torch.randint(256, (1, 45, 67), dtype=torch.uint8)
    sample = DetDataSample(metainfo={"img_shape": (45, 67)}, gt_instances=InstanceData())
    batch = model.data_preprocessor({"inputs": [picture], "data_samples": [sample]})
    normalised = padded((picture[None].float() - mean) / std, strides[-1])
    expected = network(kind, seed=9, size=normalised.shape[2:])
    load_weights(expected, weights(kind), "the student")
    with torch.no_grad():
        own = model.backbone(batch["inputs"])
    assert_equal(own, maps_of(expected, normalised))


@pytest.mark.parametrize("kind", SMALL)
def test_a_grey_picture_in_three_channels_has_the_same_features(kind, weights):
    grey = images(kind, 45, 67)
    with torch.no_grad():
        expected = backbone(kind, weights(kind))(grey)
        coloured = backbone(kind, weights(kind), channels=3)(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(coloured, expected, rtol=1e-4, atol=1e-4)


def test_a_colour_student_sees_a_grey_picture_in_one_channel_as_in_three(weights):
    grey = images("deit-tiny", 64, 64, channels=1)
    with torch.no_grad():
        expected = backbone("deit-tiny", weights("deit-tiny"))(grey.repeat(1, 3, 1, 1))
        own = backbone("deit-tiny", weights("deit-tiny"), channels=1)(grey)
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "depth", "places"),
    [
        *((1, depth, [depth - 1]) for depth in (1, 4, 12)),
        (4, 12, [2, 5, 8, 11]),  # of DPT
        (4, 24, [5, 11, 17, 23]),
        (4, 4, [0, 1, 2, 3]),
        (3, 4, [0, 1, 3]),
        (4, 5, [0, 1, 2, 4]),
    ],
)
def test_blocks_are_evenly_spaced_and_end_with_the_last(count, depth, places):
    assert evenly_spaced(count, depth, "blocks") == places


@pytest.mark.parametrize("kind", ["deit", "distilled"])
@pytest.mark.parametrize(("count", "places"), [(2, (0, 2)), (3, (0, 1, 2))])
def test_features_of_several_blocks_are_timms_own(kind, count, places, weights):
    pictures = images(kind, 56, 84)
    expected = network(kind, seed=9, size=pictures.shape[2:])
    load_weights(expected, weights(kind), "the student")
    strides, widths = describe(settings(kind, weights(kind), blocks=count))
    assert (strides, widths) == ([STUDENTS[kind][3]] * count, [VIT["embed_dim"]] * count)
    with torch.no_grad():
        own = backbone(kind, weights(kind), blocks=count)(pictures)
    assert_equal(own, maps_of(expected, pictures, places))


def test_a_hierarchical_network_gives_its_stages_whatever_the_blocks(weights):
    pictures = images("swin", 32, 32)
    with torch.no_grad():
        own, expected = (
            backbone("swin", weights("swin"), **more)(pictures) for more in ({"blocks": 4}, {})
        )
    assert_equal(own, expected)


@pytest.mark.parametrize("blocks", [0, 4, -1, True, 1.5, "all"])
def test_blocks_that_a_network_does_not_have_are_refused(blocks):
    with pytest.raises(UserError, match=r"model\.backbone\.blocks must be .* from 1 to 3"):
        backbone("deit", None, blocks=blocks)


@pytest.mark.parametrize("count", [1, 3])
def test_a_pyramid_normalises_every_map_and_every_level_sees_each(count):
    """A map's scale and offset change nothing; every level depends on every map."""
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid([8] * count, 6, [2, 1, 0.5], num_outs=4)
    maps = [torch.randn(2, 8, 6, 4, requires_grad=True) for _ in range(count)]
    levels = pyramid(maps)
    sizes = [(12, 8), (6, 4), (3, 2), (2, 1)]
    assert [tuple(level.shape[1:]) for level in levels] == [(6, *size) for size in sizes]
    again = pyramid([3 * values + 5 for values in maps])
    for level, other in zip(levels, again, strict=True):
        torch.testing.assert_close(level, other, rtol=1e-3, atol=1e-4)
        for gradient in torch.autograd.grad(level.square().sum(), maps, retain_graph=True):
            assert gradient.abs().sum() > 0


# ---- what is said of the maps ----------------------------------------------------------------


@pytest.mark.parametrize("kind", STUDENTS)
def test_strides_and_widths_are_those_of_the_maps(kind, weights):
    strides, widths = describe(settings(kind, weights(kind)))
    assert strides[0] == STUDENTS[kind][3]
    height, width = 2 * strides[-1], 3 * strides[-1]
    with torch.no_grad():
        found = backbone(kind, weights(kind))(images(kind, height, width))
    assert [values.shape[1] for values in found] == widths
    assert [height / values.shape[2] for values in found] == strides
    assert [width / values.shape[3] for values in found] == strides


# ---- training --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STUDENTS)
def test_every_parameter_of_a_backbone_is_trained(kind, weights):
    built = MODELS.build(settings(kind, weights(kind)))
    sum(values.square().mean() for values in built(images(kind, 64, 64))).backward()
    for name, parameter in built.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_stochastic_depth_acts_while_it_is_trained(weights):
    pictures = images("deit", 28, 28)
    built = backbone("deit", weights("deit"), drop_path=0.5)
    with torch.no_grad():
        expected = backbone("deit", weights("deit"))(pictures)
        assert_equal(built(pictures), expected)
        torch.manual_seed(0)
        assert not torch.equal(built.train()(pictures)[0], expected[0])


# ---- weights ---------------------------------------------------------------------------------


def test_without_weights_they_are_drawn_anew(weights):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(backbone("deit", None).network.state_dict())
    first = "blocks.0.attn.qkv.weight"
    assert torch.equal(states[0][first], states[1][first])
    assert not torch.equal(states[0][first], states[2][first])
    assert not torch.equal(states[0][first], load_file(weights("deit"))[first])


@pytest.mark.parametrize("kind", SMALL)
def test_the_patch_embedding_alone_leaves_all_else_as_random_weights_are(kind, weights):
    drawn = {}
    for name, given in (("random", None), ("alone", weights(kind))):
        torch.manual_seed(0)
        built = backbone(kind, given, channels=3, patch_embedding_alone=name == "alone")
        drawn[name] = built.network.state_dict()
    whole = backbone(kind, weights(kind), channels=3).network.state_dict()
    taken = {
        key for key, own in drawn["alone"].items() if not torch.equal(own, drawn["random"][key])
    }
    assert taken == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert all(torch.equal(drawn["alone"][key], whole[key]) for key in taken)


def missing(path, state):
    pass


def no_safetensors(path, state):
    path.write_bytes(b"weights")


def cut_short(path, state):
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])


def not_finite(path, state):
    save_file({**state, "norm.weight": state["norm.weight"] * float("nan")}, path)


def narrower(path, state):
    save_weights(network("deit", embed_dim=12), path)


def without_a_block(path, state):
    save_file({name: v for name, v in state.items() if not name.startswith("blocks.2")}, path)


def another_architecture(path, state):
    save_weights(network("swin"), path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (missing, "no such file"),
        (no_safetensors, "damaged"),
        (cut_short, "damaged"),
        (not_finite, "not finite in norm.weight"),
        (narrower, r"blocks.0.attn.proj.bias: expected \(24,\), got \(12,\)"),
        (without_a_block, r"blocks.2.attn.proj.bias: expected \(24,\), got nothing"),
        (another_architecture, "does not fit the student 'deit_tiny_patch16_224'"),
    ],
)
def test_weights_that_are_not_the_students_are_refused_by_name(tmp_path, weights, write, words):
    path = tmp_path / "student.safetensors"
    write(path, load_file(weights("deit")))
    with pytest.raises(UserError, match=words) as caught:
        backbone("deit", path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cait_xxs24_224", {"depth": 1, "embed_dim": 24, "num_heads": 2}),  # positions
        ("mixer_s32_224", {}),  # weights of each patch
        ("swinv2_cr_tiny_224", {"depths": [1, 1], "embed_dim": 24, "num_heads": [1, 1]}),
    ],
)
def test_a_network_for_images_of_one_size_is_refused(name, arguments):
    given = {"type": "Student", "weights": None, "image_shape": (3, 224, 224), "channels": 3}
    with pytest.raises(UserError, match=f"{name} cannot be a backbone.*images of one size only"):
        MODELS.build({**given, "name": name, "arguments": arguments})
