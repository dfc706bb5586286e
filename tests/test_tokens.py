"""Patch tokens: those of the blocks themselves, without prefix tokens, merged, and checked."""

import pytest
import torch
from torch import nn

from manifold.errors import UserError
from manifold.models import create_model
from manifold.settings import LayerMap, Model, resolve
from manifold.tokens import Layout, check_grids, forward_with_tokens, layouts, merge

VIT = {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
CAIT = {**VIT, "init_values": 0.1}
SWIN = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}
# name, arguments, image (height, width), the grids of layers 0 and 1
MODELS = {
    "vit": ("vit_tiny_patch16_224", VIT, (16, 24), [(4, 6), (4, 6)]),
    "vit with registers": (
        "vit_tiny_patch16_224",
        {**VIT, "reg_tokens": 3},
        (16, 24),
        [(4, 6), (4, 6)],
    ),
    "vit without class token": (
        "vit_tiny_patch16_224",
        {**VIT, "class_token": False, "global_pool": "avg"},
        (16, 24),
        [(4, 6), (4, 6)],
    ),
    "deit": ("deit_tiny_patch16_224", VIT, (16, 16), [(4, 4), (4, 4)]),
    "distilled deit": ("deit_tiny_distilled_patch16_224", VIT, (16, 24), [(4, 6), (4, 6)]),
    "cait": ("cait_xxs24_224", CAIT, (16, 24), [(4, 6), (4, 6)]),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, (32, 32), [(8, 8), (4, 4)]),
    "convnext": ("convnext_tiny", CONVNEXT, (32, 64), [(8, 16), (4, 8)]),
}


def make(kind):
    """A model of random weights in eval mode, images for it, and the grids of its layers."""
    name, arguments, sides, grids = MODELS[kind]
    torch.manual_seed(0)
    model = create_model(
        Model(name=name, arguments=arguments), (3, *sides), classes=10, drop_path=0.3
    )
    return model.eval(), torch.randn(4, 3, *sides), grids


def hooked(model, images):
    """What ``model(images)`` returns, and the patch tokens that leave its blocks 0 and 1."""
    outputs = []
    blocks = next(
        getattr(model, name) for name in ("blocks", "layers", "stages") if hasattr(model, name)
    )
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for block in blocks[:2]
    ]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    return logits, [patch_tokens(model, output) for output in outputs]


def patch_tokens(model, output):
    kind = type(model).__name__
    if kind == "SwinTransformer":
        return output.flatten(1, 2)  # (B, H, W, D)
    if kind == "ConvNeXt":
        return output.flatten(2).mT  # (B, D, H, W)
    if kind == "Cait":
        return output  # the class token joins after the trunk
    return output[:, model.num_prefix_tokens :]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", MODELS)
def test_logits_and_tokens_are_those_of_the_plain_forward_pass(kind, training):
    model, images, grids = make(kind)
    model.train(training)
    torch.manual_seed(1)
    logits, tokens = hooked(model, images)
    torch.manual_seed(1)
    outputs = forward_with_tokens(model, images, [1, 0], most_tokens=196)
    assert torch.equal(outputs.logits, logits)
    assert list(outputs.tokens) == [0, 1]
    for layer, (height, width) in enumerate(grids):
        assert outputs.tokens[layer].shape[1] == height * width
        assert torch.equal(outputs.tokens[layer], tokens[layer])


@pytest.mark.parametrize("kind", MODELS)
def test_layouts_foretell_the_shapes_of_the_tokens(kind):
    model, images, grids = make(kind)
    found = layouts(model, images.shape[1:], [0, 1], most_tokens=196)
    tokens = forward_with_tokens(model, images, [0, 1], most_tokens=196).tokens
    assert [(found[i].height, found[i].width) for i in (0, 1)] == grids
    assert [found[i].channels for i in (0, 1)] == [tokens[i].shape[2] for i in (0, 1)]


def test_without_layers_the_model_runs_as_it_is():
    model, images, _ = make("deit")
    outputs = forward_with_tokens(model, images, [], most_tokens=196)
    assert torch.equal(outputs.logits, model(images))
    assert outputs.tokens == {}
    assert outputs.heads is None


@pytest.mark.parametrize("layers", [[], [0, 1]])
def test_both_heads_of_distilled_training_are_kept_and_averaged(layers):
    model, images, _ = make("distilled deit")
    model.set_distilled_training(True)
    model.train()
    torch.manual_seed(1)
    class_logits, token_logits = model(images)
    torch.manual_seed(1)
    outputs = forward_with_tokens(model, images, layers, most_tokens=196)
    assert torch.equal(outputs.heads[0], class_logits)
    assert torch.equal(outputs.heads[1], token_logits)
    assert torch.equal(outputs.logits, (class_logits + token_logits) / 2)


# ---- merging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "tokens", "channels"),
    [
        ((1, 96, 56, 56), 196, 1536),
        ((1, 192, 28, 28), 196, 768),
        ((1, 384, 14, 14), 196, 384),
        ((1, 768, 7, 7), 49, 768),
    ],
)
def test_swin_maps_merge_to_the_figures_of_the_paper(shape, tokens, channels):
    merged = merge(torch.zeros(shape), most_tokens=196)
    assert merged.flatten(2).mT.shape == (1, tokens, channels)


def neighbourhoods(patches, square):
    """Concatenate each square of neighbours, pixel by pixel: (B, tokens, square² · D)."""
    height, width = patches.shape[2:]
    return torch.stack(
        [
            torch.cat(
                [patches[:, :, y + dy, x + dx] for dy in range(square) for dx in range(square)],
                dim=1,
            )
            for y in range(0, height, square)
            for x in range(0, width, square)
        ],
        dim=1,
    )


@pytest.mark.parametrize(
    ("sides", "most_tokens", "square"), [((8, 8), 16, 2), ((6, 12), 8, 3), ((8, 4), 2, 4)]
)
def test_merged_tokens_are_squares_of_neighbours_in_any_order_of_channels(
    sides, most_tokens, square
):
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(2, 5, *sides, generator=generator, dtype=torch.float64)
    merged = merge(patches, most_tokens).flatten(2).mT
    expected = neighbourhoods(patches, square)
    assert torch.equal(merged.sort(dim=-1).values, expected.sort(dim=-1).values)
    torch.testing.assert_close(merged @ merged.mT, expected @ expected.mT, rtol=1e-12, atol=1e-12)


def test_a_map_that_is_small_enough_stays_as_it_is():
    patches = torch.randn(1, 3, 7, 7)
    assert merge(patches, most_tokens=49) is patches


@pytest.mark.parametrize(
    ("sides", "most_tokens"), [((15, 14), 196), ((16, 9), 100), ((8, 2), 3), ((4, 4), 0)]
)
def test_a_merge_without_a_common_divisor_is_refused(sides, most_tokens):
    with pytest.raises(UserError) as error:
        merge(torch.zeros(1, 3, *sides), most_tokens)
    assert f"{sides[0]}×{sides[1]}" in str(error.value)
    assert f"at most {most_tokens}" in str(error.value)


def test_the_tokens_and_layout_of_a_large_stage_are_merged():
    model, images, _ = make("swin")
    tokens = forward_with_tokens(model, images, [0, 1], most_tokens=16).tokens
    assert tokens[0].shape == (4, 16, 4 * 8)
    assert tokens[1].shape == (4, 16, 16)
    assert layouts(model, images.shape[1:], [0, 1], most_tokens=16) == {
        0: Layout(4, 4, 32),
        1: Layout(4, 4, 16),
    }


# ---- layouts and grids -----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "depth"), [("deit", 3), ("cait", 3), ("swin", 2)])
@pytest.mark.parametrize("side", ["below", "above"])
def test_a_layer_out_of_range_is_refused_with_the_depth(kind, depth, side):
    model, images, _ = make(kind)
    layer = -1 if side == "below" else depth
    with pytest.raises(UserError) as error:
        layouts(model, images.shape[1:], [0, layer], most_tokens=196)
    assert f"layer {layer} is out of range" in str(error.value)
    assert f"{depth} blocks, 0 to {depth - 1}" in str(error.value)


def test_a_model_without_tokens_is_refused_by_name():
    with pytest.raises(UserError, match="Linear gives no patch tokens"):
        layouts(nn.Linear(4, 2), (3, 16, 16), [0], most_tokens=196)


def test_no_layers_have_no_layouts_whatever_the_model():
    assert layouts(nn.Linear(4, 2), (3, 16, 16), [], most_tokens=196) == {}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_layouts_leave_mode_weights_and_random_state_alone(training):
    model, images, _ = make("deit")
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    layouts(model, images.shape[1:], [0], most_tokens=196)
    assert {module.training for module in model.modules()} == {training}
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_different_grids_are_refused_with_both_blocks_and_grids():
    student = {0: Layout(8, 8, 24), 2: Layout(4, 4, 24)}
    teacher = {1: Layout(8, 8, 32), 5: Layout(8, 8, 32)}
    with pytest.raises(UserError) as error:
        check_grids(student, teacher, LayerMap(student=[0, 2], teacher=[1, 5]))
    assert "student block 2 has 16 = 4×4" in str(error.value)
    assert "teacher block 5 has 64 = 8×8" in str(error.value)


def test_equally_many_tokens_on_another_grid_are_refused():
    with pytest.raises(UserError, match=r"16 = 2×8.*16 = 4×4"):
        check_grids({0: Layout(2, 8, 3)}, {0: Layout(4, 4, 3)}, LayerMap(student=[0], teacher=[0]))


def test_equal_grids_of_other_channels_pass():
    check_grids({0: Layout(4, 4, 24)}, {3: Layout(4, 4, 32)}, LayerMap(student=[0], teacher=[3]))


def test_the_hierarchical_pair_of_mini_merges_its_first_stage_by_fours():
    """14 × 14 tokens become 7 × 7, each of which holds the channels of a square of four."""
    made = resolve({"scale": "mini"})
    pair, table = made.pairs["swin-swin"], made.hierarchical
    assert table.pairs == ["swin-swin"] and "swin-swin" not in made.table1.pairs
    images = torch.randn(2, *made.data.image_shape, generator=torch.Generator().manual_seed(0))
    for model, width in ((pair.student, 24), (pair.teacher.model, 48)):
        network = create_model(model, made.data.image_shape, 10).eval()
        with torch.no_grad():
            outputs = forward_with_tokens(network, images, [0, 1], pair.most_tokens)
            raw, small = network.forward_intermediates(
                images, output_fmt="NCHW", intermediates_only=True
            )
        assert raw.shape == (2, width, 14, 14) and small.shape == (2, 2 * width, 7, 7)
        squares = torch.cat([raw[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
        by_hand, merged = squares.flatten(2).mT, outputs.tokens[0]
        assert merged.shape == (2, 49, 4 * width)
        assert torch.equal(merged.sort(dim=2).values, by_hand.sort(dim=2).values)
        torch.testing.assert_close(merged @ merged.mT, by_hand @ by_hand.mT, rtol=1e-4, atol=1e-4)
        assert torch.equal(outputs.tokens[1], small.flatten(2).mT)
