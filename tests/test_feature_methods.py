"""Feature and attention methods: golden values, gradients, invariances, maps, refusals."""

import copy
import json
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.cait import Cait
from torch import nn

from baselines.attention_maps import attention_loss
from baselines.cls_kd import by_discrepancy, class_map_loss, class_token_loss
from baselines.projector_ensemble import direction_loss
from baselines.proteus import draw_masks
from baselines.vitkd import draw_mask, generation_loss, mimicking_loss
from baselines.vkd import projection_loss
from manifold.attention import AttentionReader, logits_of_kept
from manifold.distiller import FrozenTeacher
from manifold.errors import UserError
from manifold.models import create_model, load_weights, save_weights
from manifold.settings import ROOT, LayerMap, Model, read_yaml
from manifold.tokens import Outputs, after_final_norm, forward_with_tokens, has_class_tokens
from manifold.training.arguments import checked_arguments

DEFINITIONS = read_yaml(ROOT / "config/methods.yaml")
METHODS = ["vitkd", "vkd", "projector_ensemble", "attention_maps", "masked_kd"]
WIDER = ["lift", "wide_last"]  # of another student
GOLDEN = {
    name: json.loads((Path(__file__).parent / f"golden/{name}.json").read_text(encoding="utf-8"))[
        "cases"
    ]
    for name in [*METHODS, *WIDER, "cls_kd", "proteus"]
}
CLASSES = 10
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str
)


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def rotation(size):
    return torch.linalg.qr(normal(size, size, seed=9)).Q


class Plain(nn.Module):
    """A network of no blocks at all, for methods whose terms are given tokens to compare."""

    def __init__(self, channels, grid=(4, 4), blocks=3):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.feature_info = [{}] * blocks
        self.map = (channels, *grid)

    def forward_intermediates(self, images, indices, **_options):
        return [torch.zeros(len(images), *self.map) for _ in indices]


VIT = {"patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3}
LARGER = {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
NETWORKS = {
    "deit": ("deit_tiny_patch16_224", VIT),
    "distilled deit": ("deit_tiny_distilled_patch16_224", VIT),
    "vit": ("vit_tiny_patch16_224", {**VIT, "reg_tokens": 3}),
    "vit with normalised queries": ("vit_tiny_patch16_224", {**VIT, "qk_norm": True}),
    "vit without bias": ("vit_tiny_patch16_224", {**VIT, "qkv_bias": False}),
    "cait": ("cait_xxs24_224", {**VIT, "init_values": 0.1}),
    "student of MaskedKD": ("deit_tiny_patch16_224", {**VIT, "depth": 2}),
    "lift": ("deit_tiny_lift_patch16_224", {**VIT, "last_width": 16}),
    "wide_last": ("deit_tiny_wide_last_patch16_224", {**VIT, "last_width": 16, "last_heads": 4}),
    "larger deit": ("deit_tiny_patch16_224", LARGER),
    "larger cait": ("cait_xxs24_224", {**LARGER, "init_values": 0.1}),
    "finer cait": ("cait_xxs24_224", {**LARGER, "patch_size": 2, "init_values": 0.1}),
    "pooling vit": (
        "vit_tiny_patch16_224",
        {**VIT, "class_token": False, "global_pool": "avg"},
    ),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (4, 8, 8, 12)}),
}
READABLE = ["deit", "distilled deit", "vit", "vit with normalised queries", "vit without bias"]
READABLE += ["cait"]


def network(kind, classes=CLASSES, drop_path=0.0, seed=0):
    """A network of random weights, whose attention and decisions are far from uniform."""
    torch.manual_seed(seed)
    sides = (32, 32) if kind in ("swin", "convnext") else (16, 16)
    model = create_model(
        Model(name=NETWORKS[kind][0], arguments=NETWORKS[kind][1]), (3, *sides), classes, drop_path
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("qkv.weight", "q.weight", "k.weight", "head.weight")):
                parameter.mul_(20)
    return model.eval()


def images(count=4, sides=(16, 16)):
    return normal(count, 3, *sides, seed=5, dtype=torch.float32)


def build(method, student, teacher, rescale=None, alpha=0.3, temperature=2.0, **given):
    """A method as config/methods.yaml defines it; without layers given, its pairs end in (2, 2)."""
    definition = DEFINITIONS[method]
    module, _, name = definition["distiller"].partition(":")
    arguments = {**definition["arguments"], "alpha": alpha, "temperature": temperature}
    if "layers" in arguments:
        blocks = [0, 1, 2] if arguments["layers"] == "paper" else [2]
        arguments["layers"] = LayerMap(student=blocks, teacher=blocks)
    kind = getattr(import_module(module), name)
    return kind(
        student,
        FrozenTeacher(teacher, most_tokens=196, rescale=rescale),
        image_shape=(3, 16, 16),
        most_tokens=196,
        **checked_arguments(kind, {**arguments, **given}),
    )


def real(method, **given):
    """A method with a DeiT of three blocks and a CaiT of three."""
    return build(method, network("deit"), network("larger cait", seed=1), **given)


# ---- golden values ---------------------------------------------------------------------------


class Inputs:
    """Draws a golden case's arrays in the order that its file says."""

    def __init__(self, case, dtype):
        self.rng = np.random.default_rng(case["seed"])
        self.dtype = dtype

    def __call__(self, *shape, scale=1.0):
        return torch.tensor(scale * self.rng.standard_normal(shape), dtype=self.dtype)

    @torch.no_grad()
    def fill(self, parameters, scale):
        for parameter in parameters:
            parameter.copy_(self(*parameter.shape, scale=scale))


def no_decision(case):
    """Logits and targets of a case that has none of its own."""
    return torch.zeros(case["B"], CLASSES), torch.zeros(case["B"], dtype=torch.long)


def golden_vitkd(case, draw):
    grid = (case["height"], case["width"])
    width = [case[f"D_{net}"] for net in ("student", "teacher")]
    tokens = grid[0] * grid[1]
    shallow = [draw(case["B"], 2, tokens, channels) for channels in width]
    deep = [draw(case["B"], tokens, channels) for channels in width]
    networks = (Plain(channels, grid) for channels in width)
    distiller = build("vitkd", *networks, mask_ratio=case["mask_ratio"]).to(draw.dtype)
    projectors, generator = distiller.auxiliary["projectors"], distiller.auxiliary["generator"]
    for module in (projectors, generator.align):
        draw.fill(module.parameters(), scale=0.3)
    draw.fill([generator.mask_token, *generator.block.parameters()], scale=0.3)
    leaves = [shallow[0].requires_grad_(), deep[0].requires_grad_()]
    logits, targets = no_decision(case)
    student, teacher = (
        Outputs(logits, dict(enumerate([*two.unbind(1), last])))
        for two, last in zip(shallow, deep, strict=True)
    )
    distiller.sampling.manual_seed(case["seed"])
    return leaves, distiller.terms(student, teacher, targets)


def golden_vkd(case, draw):
    own, other = case["D_student"], case["D_teacher"]
    tokens = [draw(case["B"], case["N"], channels) for channels in (own, other)]
    logits = [draw(case["B"], case["C"], scale=3) for _ in tokens]
    axis = draw(max(own, other))
    reflection = torch.eye(len(axis), dtype=axis.dtype) - 2 * axis.outer(axis) / axis.dot(axis)
    distiller = build("vkd", Plain(own), Plain(other)).to(draw.dtype)
    distiller.auxiliary["projector"].weight = reflection[:other, :own]
    leaves = [tokens[0].requires_grad_(), logits[0].requires_grad_()]
    student, teacher = (Outputs(z, {2: x}) for z, x in zip(logits, tokens, strict=True))
    terms = distiller.terms(student, teacher, torch.zeros(case["B"], dtype=torch.long))
    return leaves, terms


def golden_projector_ensemble(case, draw):
    features = [draw(case["B"], case[f"D_{net}"]) for net in ("student", "teacher")]
    distiller = build("projector_ensemble", *(Plain(x.shape[1]) for x in features)).to(draw.dtype)
    draw.fill(distiller.auxiliary.parameters(), scale=0.5)
    leaves = [features[0].requires_grad_()]
    logits, targets = no_decision(case)
    student, teacher = (  # two tokens whose mean is the feature
        Outputs(logits, {2: torch.stack([x + 1, x - 1], dim=1)}) for x in features
    )
    return leaves, distiller.terms(student, teacher, targets)


def golden_attention_maps(case, draw):
    own, other = (draw(case["B"], case["N"], scale=case["scale"]).softmax(dim=-1) for _ in range(2))
    logits, targets = no_decision(case)
    student = Outputs(logits, {}, attention={1: own.requires_grad_()})
    teacher = Outputs(logits, {}, attention={3: other})
    return [own], real("attention_maps").terms(student, teacher, targets)


def golden_cls_kd(case, draw):
    width = [case[f"D_{net}"] for net in ("student", "teacher")]
    own, other = (draw(3, case["B"], 1 + case["N"], channels) for channels in width)
    networks = []
    for channels in width:
        made = network("deit")
        made.feature_info = [{"num_chs": channels}] * 3
        made.forward_intermediates = Plain(channels, (1, case["N"])).forward_intermediates
        networks.append(made)
    distiller = build("cls_kd", *networks, last=case["last"]).to(draw.dtype)
    draw.fill(distiller.auxiliary.parameters(), scale=0.5)
    own.requires_grad_()
    logits, targets = no_decision(case)
    student, teacher = (
        Outputs(
            logits,
            {i: sequence[i][:, 1:] for i in range(3)},
            class_tokens={i: sequence[i][:, 0] for i in range(3)},
        )
        for sequence in (own, other)
    )
    return [own], distiller.terms(student, teacher, targets)


GOLDEN_TERMS = {
    "vitkd": golden_vitkd,
    "vkd": golden_vkd,
    "projector_ensemble": golden_projector_ensemble,
    "attention_maps": golden_attention_maps,
    "cls_kd": golden_cls_kd,
}
CASES = [
    pytest.param(name, case, id=f"{name}-seed-{case['seed']}")
    for name in GOLDEN_TERMS
    for case in GOLDEN[name]
]


@PRECISIONS
@pytest.mark.parametrize(("method", "case"), CASES)
def test_losses_and_gradient_are_those_of_the_authors_code(method, case, dtype, tolerance):
    leaves, terms = GOLDEN_TERMS[method](case, Inputs(case, dtype))
    found = {name: terms[name].item() for name in case["losses"]}
    assert found == pytest.approx(case["losses"], rel=tolerance)
    total = sum(terms[name] for name in case["losses"])
    total.backward()
    gradient = torch.cat([leaf.grad.flatten() for leaf in leaves])
    norm = case["gradient_norm"]
    assert total.item() == pytest.approx(case["total"], rel=tolerance)
    assert gradient.norm().item() == pytest.approx(norm, rel=tolerance)
    first = pytest.approx(case["gradient_first"], rel=tolerance, abs=tolerance * norm)
    assert gradient[:5].tolist() == first


@PRECISIONS
@pytest.mark.parametrize("case", GOLDEN["masked_kd"], ids=lambda case: case["teacher"])
def test_masked_kd_is_the_authors_from_the_images_on(case, dtype, tolerance):
    draw = Inputs(case, dtype)
    pixels = draw(case["B"], 3, 16, 16)
    labels = torch.tensor(draw.rng.integers(0, case["classes"], case["B"]))
    student = network("student of MaskedKD", case["classes"]).to(dtype)
    teacher = network(f"larger {case['teacher']}", case["classes"]).to(dtype)
    for model in (student, teacher):
        draw.fill([parameter for _, parameter in sorted(model.named_parameters())], scale=0.6)
    distiller = build("masked_kd", student, teacher, alpha=0.5, temperature=1.0).to(dtype)
    kept = []
    hook = teacher.blocks[0].register_forward_pre_hook(lambda _, x: kept.append(x[0].shape[1]))
    result = distiller(pixels, labels)
    hook.remove()
    assert kept == [8 if isinstance(teacher, Cait) else 9]
    assert result["loss"].item() == pytest.approx(case["total"], rel=tolerance)
    result["loss"].backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in student.parameters()])
    norm = case["gradient_norm"]
    assert gradient.norm().item() == pytest.approx(norm, rel=tolerance)
    first = pytest.approx(case["gradient_first"], rel=tolerance, abs=tolerance * norm)
    assert student.blocks[1].attn.qkv.weight.grad.flatten()[:5].tolist() == first
    reader = AttentionReader(student)
    student(pixels)
    (attention,) = reader.take().values()
    assert attention[0].tolist() == pytest.approx(case["attention"], rel=tolerance)
    assert attention.topk(8, dim=1).indices.sort(dim=1).values.tolist() == case["kept"]


@PRECISIONS
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("method", WIDER)
def test_wider_students_and_losses_are_the_authors_from_the_images_on(
    method, number, dtype, tolerance
):
    case = GOLDEN[method][number]
    if method == "lift":
        tolerance = 1e-5  # the authors transform in float32
    draw = Inputs(case, dtype)
    pixels = draw(case["B"], 3, 16, 16)
    labels = torch.tensor(draw.rng.integers(0, case["classes"], case["B"]))
    tokens, logits = draw(case["B"], 16, 16), draw(case["B"], case["classes"], scale=3)
    student = network(method, case["classes"])
    distiller = build(method, student, Plain(16), alpha=0.9, temperature=1.0).to(dtype)
    draw.fill([parameter for _, parameter in sorted(student.named_parameters())], scale=0.4)
    distiller.ask_teacher = lambda *_: Outputs(logits, {2: tokens})
    result = distiller(pixels, labels)
    assert result["output"][0].tolist() == pytest.approx(case["logits"], rel=tolerance)
    found = {name: result[name].item() for name in case["losses"]}
    assert found == pytest.approx(case["losses"], rel=tolerance)
    assert result["loss"].item() == pytest.approx(case["total"], rel=tolerance)
    result["loss"].backward()
    grown = dict(sorted(student.named_parameters()))
    gradient = torch.cat([parameter.grad.flatten() for parameter in grown.values()])
    norm = case["gradient_norm"]
    assert gradient.norm().item() == pytest.approx(norm, rel=tolerance)
    name = {"lift": "norm.0.weight", "wide_last": "blocks.2.widen.0.weight"}[method]
    first = pytest.approx(case["gradient_first"], rel=tolerance, abs=tolerance * norm)
    assert grown[name].grad.flatten()[:5].tolist() == first


@PRECISIONS
@pytest.mark.parametrize("case", GOLDEN["proteus"], ids=lambda case: f"seed-{case['seed']}")
def test_proteus_is_the_authors_from_the_images_on(case, dtype, tolerance):
    draw = Inputs(case, dtype)
    pixels = draw(case["B"], 3, 16, 16)
    student, teacher = network("student of MaskedKD"), network("larger deit")
    last = LayerMap(student=[1], teacher=[2])
    distiller = build("proteus", student, teacher, layers=last).to(dtype)
    teacher.to(dtype)
    for model in (student, teacher):
        named = sorted(model.named_parameters())
        draw.fill([parameter for name, parameter in named if "head" not in name], scale=0.6)
    draw.fill(distiller.auxiliary["masked"].parameters(), scale=0.6)
    for level in ("token", "feature", "patch"):
        draw.fill(distiller.auxiliary["heads"][level].parameters(), scale=0.6)
    masks = draw_masks(case["B"] // 2, 16, 0.5, torch.Generator().manual_seed(case["seed"]))
    assert [row.nonzero().flatten().tolist() for row in masks] == case["masked"]
    result = distiller(pixels, torch.zeros(case["B"], dtype=torch.long), [case["seed"]])
    found = {name: result[name].item() for name in case["losses"]}
    assert found == pytest.approx(case["losses"], rel=tolerance)
    sum(result[name] for name in found).backward()
    grown = [(name, p) for name, p in student.named_parameters() if "head" not in name]
    gradient = torch.cat([parameter.grad.flatten() for _, parameter in grown])
    norm = case["gradient_norm"]
    assert gradient.norm().item() == pytest.approx(norm, rel=tolerance)
    first = pytest.approx(case["gradient_first"], rel=tolerance, abs=tolerance * norm)
    assert student.blocks[1].attn.qkv.weight.grad.flatten()[:5].tolist() == first
    masked = pytest.approx(case["mask_token_gradient"], rel=tolerance, abs=tolerance * norm)
    assert distiller.auxiliary["masked"].token.grad.flatten()[:5].tolist() == masked
    assert student.head.weight.grad is None  # its own term alone trains it


# ---- the losses ------------------------------------------------------------------------------


def masked_columns(student, teacher):
    """The generation loss with the same tokens of each image masked."""
    masked = (torch.arange(student.shape[1]) % 2 == 1).expand(len(student), -1)
    return generation_loss(student, teacher, masked, mask_ratio=0.5)


LOSSES = {
    "class token": lambda student, teacher: class_token_loss(student[:, 0], teacher[:, 0]),
    "class map": lambda student, teacher: class_map_loss(
        (student[:, 0], student[:, 1:]), (teacher[:, 0], teacher[:, 1:])
    ),
    "mimicking": mimicking_loss,
    "generation": masked_columns,
    "projection": lambda student, teacher: projection_loss(student[:, 0], teacher[:, 0]),
    "direction": lambda student, teacher: direction_loss(student[:, 0], teacher[:, 0]),
    "attention": lambda student, teacher: attention_loss(
        student[:, 0].softmax(dim=-1), teacher[:, 0].softmax(dim=-1)
    ),
}
every_loss = pytest.mark.parametrize("loss", LOSSES)


def pair(dtype=torch.float64):
    return normal(5, 4, 8, seed=1, dtype=dtype), normal(5, 4, 8, seed=2, dtype=dtype)


@pytest.mark.slow
@every_loss
def test_gradient_is_that_of_the_value(loss):
    student, teacher = pair()
    assert torch.autograd.gradcheck(lambda x: LOSSES[loss](x, teacher), student.requires_grad_())


@every_loss
def test_loss_ignores_the_order_of_the_images(loss):
    student, teacher = pair()
    order = torch.tensor([2, 0, 4, 3, 1])
    found = LOSSES[loss](student[order], teacher[order]).item()
    assert found == pytest.approx(LOSSES[loss](student, teacher).item(), rel=1e-12)
    assert LOSSES[loss](student[order], teacher).item() != pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("loss", ["mimicking", "generation", "direction"])
def test_loss_ignores_an_orthogonal_map_of_both_networks_channels(loss):
    student, teacher = pair()
    turned = LOSSES[loss](student @ rotation(8), teacher @ rotation(8)).item()
    assert turned == pytest.approx(LOSSES[loss](student, teacher).item(), rel=1e-12)
    assert LOSSES[loss](student @ rotation(8), teacher).item() != pytest.approx(turned, rel=1e-3)


@every_loss
def test_loss_vanishes_for_a_perfect_student_alone(loss):
    student, teacher = pair()
    perfect = {
        "projection": F.layer_norm(teacher, (8,)),  # the target is the standardised teacher
        "direction": 3 * teacher,
        "class token": F.normalize(teacher, dim=-1),
    }.get(loss, teacher)
    assert LOSSES[loss](perfect, teacher).item() == pytest.approx(0, abs=1e-12)
    assert LOSSES[loss](student, teacher).item() > 1e-2


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_loss
def test_loss_is_float32_whatever_the_features_and_autocast(loss, dtype, autocast):
    student, teacher = pair(dtype)
    if loss == "attention":  # the softmax that makes the maps is not the loss's own
        student, teacher = student.float(), teacher.float()
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        value = LOSSES[loss](student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == LOSSES[loss](student.float(), teacher.float()).item()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_terms_under_autocast_are_close_to_those_in_float32(method, dtype):
    distiller, labels = real(method), torch.tensor([3, 1, 4, 1])
    results = []
    for enabled in (False, True):
        distiller.sampling.manual_seed(0)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            results.append(distiller(images(), labels))
    exact, found = (
        {name: results[i][name].item() for name in results[i] if name != "output"} for i in (0, 1)
    )
    assert found == pytest.approx(exact, rel=0.05)
    results[1]["loss"].backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


SHAPES = [
    pytest.param((2, 4, 8), (3, 4, 8), id="batch"),
    pytest.param((1, 4, 8), (2, 4, 8), id="batch that would broadcast"),
    pytest.param((2, 4, 8), (2, 5, 8), id="positions"),
    pytest.param((2, 4, 8), (2, 4, 1), id="channels that would broadcast"),
    pytest.param((4, 8), (2, 4, 8), id="2-D"),
    pytest.param((0, 4, 8), (0, 4, 8), id="no images"),
]


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
@pytest.mark.parametrize(
    "loss",
    [
        mimicking_loss,
        partial(generation_loss, masked=torch.ones(2, 4, dtype=torch.bool), mask_ratio=0.5),
        projection_loss,
        direction_loss,
        attention_loss,
        class_token_loss,
    ],
    ids=["mimicking", "generation", "projection", "direction", "attention", "class token"],
)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(loss, student, teacher):
    with pytest.raises(ValueError) as error:
        loss(torch.ones(student), torch.ones(teacher))
    assert f"student {student}, teacher {teacher}" in str(error.value)


def test_a_mask_of_other_tokens_is_refused_with_both_shapes():
    tokens = torch.ones(2, 4, 8)
    with pytest.raises(ValueError, match=r"mask \(2, 5\), teacher \(2, 4, 8\)"):
        generation_loss(tokens, tokens, torch.ones(2, 5, dtype=torch.bool), mask_ratio=0.5)


def test_features_of_which_no_projector_passes_one_have_a_finite_gradient():
    student = torch.zeros(2, 8, requires_grad=True)
    loss = direction_loss(student, torch.ones(2, 8))
    loss.backward()
    assert loss.item() == 1
    assert student.grad.isfinite().all()


# ---- ViTKD -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "mask_ratio", "masked"),
    [(16, 0.5, 8), (49, 0.5, 25), (25, 0.3, 8), (16, 1.0, 16), (196, 0.5, 98)],
)
def test_mask_is_the_share_of_each_image_and_differs_between_them(tokens, mask_ratio, masked):
    mask = draw_mask(6, tokens, mask_ratio, torch.Generator().manual_seed(3))
    assert mask.sum(dim=1).tolist() == [masked] * 6
    assert mask_ratio == 1 or len({tuple(row) for row in mask.tolist()}) == 6


def test_mask_comes_from_the_methods_own_generator_alone():
    distiller = real("vitkd")
    labels = torch.tensor([3, 1, 4, 1])
    found = []
    for global_seed, own_seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        distiller.sampling.manual_seed(own_seed)
        found.append(distiller(images(), labels)["generation"].item())
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1] != found[2]


def test_vitkd_mimics_the_first_two_pairs_and_generates_the_last():
    layers = LayerMap(student=[0, 1, 2, 3, 4], teacher=[1, 2, 4, 6, 7])
    distiller = build("vitkd", Plain(6, blocks=5), Plain(6, blocks=9), layers=layers)
    assert distiller.layers == LayerMap(student=[0, 1, 4], teacher=[1, 2, 7])
    assert distiller.teacher.layers == {1, 2, 7}
    assert not list(distiller.auxiliary["projectors"].parameters())  # equal widths need none


def test_generator_never_sees_the_masked_tokens():
    networks = (Plain(channels, grid=(2, 8)) for channels in (6, 10))
    generator = build("vitkd", *networks).auxiliary["generator"]
    tokens, masked = normal(2, 16, 6).float(), torch.zeros(2, 16, dtype=torch.bool)
    masked[:, ::2] = True
    replaced = torch.where(masked.unsqueeze(-1), 100.0, tokens)
    assert torch.equal(generator(tokens, masked), generator(replaced, masked))


# ---- VkD -------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [6, 10, 14])
def test_projector_stays_orthonormal_under_weight_decay(own):
    distiller = build("vkd", Plain(own), Plain(10))
    projector = distiller.auxiliary["projector"]
    before = projector.weight.detach().clone()
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=0.05, weight_decay=0.1)
    for step in range(5):
        student, teacher = (
            Outputs(normal(4, CLASSES, seed=step).float(), {2: normal(4, 16, d, seed=d).float()})
            for d in (own, 10)
        )
        optimizer.zero_grad()
        sum(distiller.terms(student, teacher, torch.arange(4)).values()).backward()
        optimizer.step()
    assert (projector.weight - before).norm() > 0.1
    assert torch.linalg.svdvals(projector.weight).tolist() == pytest.approx([1] * min(own, 10))


def test_torchs_default_parametrisation_would_not_survive_weight_decay():
    projector = nn.utils.parametrizations.orthogonal(nn.Linear(6, 10, bias=False))
    optimizer = torch.optim.AdamW(projector.parameters(), lr=5e-4, weight_decay=0.05)
    projector(normal(4, 6).float()).square().mean().backward()
    optimizer.step()
    assert not projector.weight.any()  # why the method names the matrix exponential


# ---- the final norm --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deit", "distilled deit", "cait", "swin"])
def test_tokens_of_the_last_block_get_the_networks_own_final_norm(kind):
    model = network(kind)
    nn.init.normal_(model.norm.weight)
    pixels = images(sides=(32, 32) if kind == "swin" else (16, 16))
    last = len(model.feature_info) - 1
    tokens = forward_with_tokens(model, pixels, [0, last], most_tokens=196).tokens
    features = model.forward_features(pixels)
    expected = features.flatten(1, 2) if kind == "swin" else features[:, model.num_prefix_tokens :]
    found = after_final_norm(model, last, tokens[last])
    torch.testing.assert_close(found, expected)
    assert after_final_norm(model, 0, tokens[0]) is tokens[0]


def test_tokens_stay_as_they_are_where_no_norm_follows_the_last_block():
    tokens = normal(2, 1, 12).float()
    assert after_final_norm(network("convnext"), 3, tokens) is tokens


def test_merged_tokens_do_not_fit_the_final_norm():
    with pytest.raises(UserError, match=r"over 16 channels.*merged tokens have 64.*most_tokens"):
        after_final_norm(network("swin"), 1, normal(2, 4, 64).float())


@pytest.mark.parametrize("method", ["vitkd", "vkd", "projector_ensemble"])
def test_deep_features_are_compared_after_both_final_norms(method):
    distiller = real(method)
    norms = [distiller.trainable_module.norm, distiller.teacher.model.norm]
    seen = []
    for norm in norms:
        norm.register_forward_hook(lambda module, _inputs, output: seen.append(output.shape))
    tokens = [{i: normal(4, 16, d).float() for i in (0, 1, 2)} for d in (12, 16)]
    logits = normal(4, CLASSES).float()
    distiller.terms(Outputs(logits, tokens[0]), Outputs(logits, tokens[1]), torch.arange(4))
    assert seen == [(4, 16, 12), (4, 16, 16)]


# ---- attention maps --------------------------------------------------------------------------


def attention_module(model):
    return model.blocks_token_only[0].attn if isinstance(model, Cait) else model.blocks[-1].attn


def explicit_map(model, pixels):
    """The map from the network's own attention matrix, which it forms without a fused kernel."""
    module, matrices = attention_module(model), []
    module.fused_attn = False
    hook = module.attn_drop.register_forward_pre_hook(lambda _, inputs: matrices.append(inputs[0]))
    model(pixels)
    hook.remove()
    attention = matrices[0][:, :, 0, model.num_prefix_tokens :].mean(dim=1)
    return attention / attention.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", READABLE)
def test_map_and_its_gradient_are_those_of_the_explicit_computation(kind, training):
    found, expected = (network(kind, drop_path=0.3).train(training).double() for _ in range(2))
    reader = AttentionReader(found)
    torch.manual_seed(1)
    found(images().double())
    ((block, attention),) = reader.take().items()
    torch.manual_seed(1)
    explicit = explicit_map(expected, images().double())
    assert block == (3 if kind == "cait" else 2)
    assert attention.shape == (4, 16)
    assert explicit.std() > 0.01  # far from uniform
    torch.testing.assert_close(attention, explicit, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(4, dtype=torch.float64))
    for rows in (attention, explicit):
        (rows * normal(4, 16, seed=3)).sum().backward()
    gradients = [
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for model in (found, expected)
    ]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("layers", [[], [0, 1]])
@pytest.mark.parametrize("kind", READABLE)
def test_reading_the_attention_changes_neither_outputs_nor_gradients(kind, layers):
    results = []
    for is_read in (False, True):
        model = network(kind, drop_path=0.3).train()
        reader = AttentionReader(model) if is_read else None
        torch.manual_seed(1)
        outputs = forward_with_tokens(model, images(), layers, most_tokens=196)
        outputs.logits.square().sum().backward()
        if is_read:
            reader.take()
        results.append((outputs, {name: p.grad for name, p in model.named_parameters()}))
    (plain, plain_gradients), (read, read_gradients) = results
    assert torch.equal(plain.logits, read.logits)
    assert all(torch.equal(plain.tokens[layer], read.tokens[layer]) for layer in layers)
    assert all(torch.equal(plain_gradients[name], read_gradients[name]) for name in plain_gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["deit", "cait"])
def test_map_is_float32_under_autocast(kind, dtype):
    model = network(kind)
    reader = AttentionReader(model)
    maps = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            model(images())
            maps.append(reader.take()[reader.block])
    assert maps[1].dtype == torch.float32
    torch.testing.assert_close(maps[1].sum(dim=1), torch.ones(4))
    torch.testing.assert_close(maps[0], maps[1], rtol=0.2, atol=5e-3)


def test_a_copy_of_a_network_is_read_apart():
    model = network("deit")
    reader = AttentionReader(model)
    twin = copy.deepcopy(model)  # as for the moving average of the weights
    model(images())
    expected = reader.take()[2]
    model(images())
    twin(images().flip(0))
    assert torch.equal(reader.take()[2], expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["attention_maps", "masked_kd"])
def test_compiled_passes_are_read_too(method):
    plain, compiled = real(method), real(method)
    compiled.compile(backend="eager")
    labels = torch.tensor([3, 1, 4, 1])
    for _ in range(2):
        for pixels in (images(), images().flip(0)):
            found, expected = compiled(pixels, labels), plain(pixels, labels)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("kind", ["pooling vit", "swin", "convnext"])
def test_a_network_without_such_attention_is_refused_by_name(kind):
    with pytest.raises(UserError) as error:
        AttentionReader(network(kind))
    name = type(network(kind)).__name__
    assert f"{name} has no attention of a class token" in str(error.value)


@pytest.mark.parametrize("method", ["attention_maps", "masked_kd"])
def test_grids_that_differ_are_refused(method):
    with pytest.raises(UserError, match=r"16 = 4×4.*64 = 8×8"):
        build(method, network("deit"), network("finer cait"))


def test_outputs_carry_the_attention_through_map_and_chunk():
    attention = normal(4, 16)
    outputs = Outputs(torch.zeros(4, 2), {}, attention={1: attention})
    assert torch.equal(outputs.map(lambda x: 2 * x).attention[1], 2 * attention)
    parts = [part.attention[1] for part in outputs.chunk(2)]
    assert torch.equal(torch.cat(parts), attention)
    assert Outputs(torch.zeros(4, 2), {}).chunk(2)[0].attention is None


def test_a_teacher_is_read_once_asked_and_once_for_all():
    teacher = FrozenTeacher(network("cait"), most_tokens=196)
    pixels = images()
    assert teacher(pixels).attention is None
    reader = teacher.watch_attention()
    assert teacher.watch_attention() is reader
    outputs = teacher(pixels)
    assert set(outputs.attention) == {3}
    assert not outputs.attention[3].requires_grad
    assert teacher(pixels) is outputs


def test_attention_maps_adds_its_weighted_term_to_soft_kd():
    labels = torch.tensor([3, 1, 4, 1])
    found = real("attention_maps", weight=7.0)(images(), labels)
    plain = real("soft_kd")(images(), labels)
    own, other = (
        explicit_map(network(kind, seed=seed), images())
        for kind, seed in (("deit", 0), ("larger cait", 1))
    )
    expected = 7 * (other * (other / own).log()).sum(dim=1).mean()
    assert found["attention"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert found["cross_entropy"].item() == plain["cross_entropy"].item()
    assert found["kl"].item() == plain["kl"].item()


# ---- MaskedKD --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deit", "distilled deit", "vit", "cait"])
def test_patches_that_are_not_kept_are_not_seen(kind):
    model, pixels = network(kind), images(2)
    kept = torch.tensor([[0, 5, 15], [3, 2, 9]])
    logits = logits_of_kept(model, pixels, kept)
    noise = 100 * normal(2, 3, 16, 16, seed=8).float()
    for image, positions in enumerate(kept.tolist()):
        for position in positions:
            y, x = 4 * (position // 4), 4 * (position % 4)
            noise[image, :, y : y + 4, x : x + 4] = 0
    assert torch.equal(logits_of_kept(model, pixels + noise, kept), logits)
    everything = torch.arange(16).expand(2, -1)
    assert torch.equal(logits_of_kept(model, pixels, everything), model(pixels))
    assert not torch.allclose(logits, model(pixels), rtol=1e-3)


def test_masked_kd_that_keeps_every_patch_is_soft_kd():
    labels = torch.tensor([3, 1, 4, 1])
    found, expected = (
        real(method, **given)(images(), labels)
        for method, given in (("masked_kd", {"keep": 1.0}), ("soft_kd", {}))
    )
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


def test_masked_kd_keeps_what_the_student_attends_to_and_rescales_it():
    factor, offset = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.1, -1.0, 0.0])
    distiller = real("masked_kd", rescale=(factor, offset), keep=0.3)
    distiller.teacher.forward = None  # the pass that all methods share is not asked for
    labels = torch.tensor([3, 1, 4, 1])
    found = distiller(images(), labels)["kl"].item()
    kept = explicit_map(network("deit"), images()).topk(4, dim=1).indices
    rescaled = images() * factor.view(-1, 1, 1) + offset.view(-1, 1, 1)
    logits = logits_of_kept(network("larger cait", seed=1), rescaled, kept)
    expected = real("soft_kd").soft_kd(
        Outputs(network("deit")(images()), {}), Outputs(logits, {}), labels
    )
    assert found == pytest.approx(expected["kl"].item(), rel=1e-5)


# ---- wider students --------------------------------------------------------------------------


@pytest.mark.parametrize("method", WIDER)
def test_a_wider_student_is_made_by_timm_alone_and_loads_its_weights(method, tmp_path):
    name, given = NETWORKS[method]
    student = network(method, seed=3)
    save_weights(student, tmp_path / "student.safetensors")
    made = timm.create_model(name, img_size=16, num_classes=CLASSES, **given).eval()
    made.load_state_dict(load_file(tmp_path / "student.safetensors"))
    assert torch.equal(made(images()), student(images()))
    load_weights(network(method, seed=4), tmp_path / "student.safetensors", "it")
    assert made.head.in_features == made.num_features == 16
    pooled = made.forward_head(made.forward_features(images()), pre_logits=True)
    made.reset_classifier(3)
    assert pooled.shape == (4, 16) and made(images()).shape == (4, 3)


@pytest.mark.parametrize(
    ("name", "given", "parameters"),
    [  # as the authors count the lift, and as their code has the wide block
        ("deit_tiny_lift_patch16_224", {"last_width": 384}, 5_983_528),
        ("deit_tiny_wide_last_patch16_224", {"last_width": 384, "last_heads": 6}, 7_313_896),
    ],
)
def test_wider_students_have_the_authors_parameters(name, given, parameters):
    model = create_model(Model(name=name, arguments=given), (3, 224, 224), 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("method", WIDER)
def test_a_wider_students_tokens_are_read_block_by_block(method):
    model = network(method)
    outputs = forward_with_tokens(model, images(), [1, 2], most_tokens=196)
    widths = {"lift": 12, "wide_last": 16}
    assert outputs.tokens[1].shape == (4, 16, 12)
    assert outputs.tokens[2].shape == (4, 16, widths[method])
    assert outputs.features.shape == (4, 17, 16)
    assert torch.equal(outputs.logits, model(images()))


@pytest.mark.parametrize(
    ("method", "student", "words"),
    [
        ("lift", "deit", "has none: set lifted_student to .*deit_tiny_lift_patch16_224"),
        ("wide_last", "deit", "last tokens have 12 channels, .*teacher's 16; .*last_width to 16"),
    ],
)
def test_a_plain_student_is_refused_by_methods_of_a_wider_one(method, student, words):
    with pytest.raises(UserError, match=words):
        build(method, network(student), network("larger cait"))


@pytest.mark.parametrize("method", WIDER)
def test_a_wider_student_is_compared_at_its_last_block_and_width_alone(method):
    with pytest.raises(UserError, match=r"last block, 2, alone; .* \[1\]"):
        layers = LayerMap(student=[1], teacher=[2])
        build(method, network(method), network("larger cait"), layers=layers)
    with pytest.raises(UserError, match=r"16 channels, .*teacher's 12; .*last_width to 12"):
        build(method, network(method), network("cait"))


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("deit_tiny_lift_patch16_224", {}, "last_width"),
        ("deit_tiny_lift_patch16_224", {"last_width": 8, "global_pool": "token"}, "global_pool"),
        ("deit_tiny_wide_last_patch16_224", {"last_width": 16}, "last_heads"),
        ("deit_tiny_wide_last_patch16_224", {"last_width": 16, "last_heads": 3}, "refuses"),
    ],
)
def test_a_wider_student_of_no_sense_is_refused_by_name(name, given, words):
    with pytest.raises(UserError, match=rf"{name}.*{words}"):
        create_model(Model(name=name, arguments={**VIT, **given}), (3, 16, 16), CLASSES)


# ---- class tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deit", "distilled deit", "vit", "lift", "wide_last"])
def test_class_tokens_are_those_that_the_blocks_give(kind):
    model, seen = network(kind), []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output[:, 0]))
    outputs = forward_with_tokens(model, images(), [0, 2], most_tokens=196)
    assert has_class_tokens(model) and set(outputs.class_tokens) == {0, 2}
    assert torch.equal(outputs.class_tokens[0], seen[0])
    assert torch.equal(outputs.class_tokens[2], seen[2])
    assert torch.equal(outputs.features, model.forward_features(images()))


@pytest.mark.parametrize("kind", ["cait", "pooling vit", "swin"])
def test_networks_whose_blocks_carry_no_class_token_give_none(kind):
    sides = (32, 32) if kind == "swin" else (16, 16)
    outputs = forward_with_tokens(network(kind), images(sides=sides), [0], most_tokens=196)
    assert outputs.class_tokens == {} and not has_class_tokens(network(kind))


def test_outputs_carry_class_tokens_features_and_images_through_map_and_chunk():
    token, features, pixels = normal(4, 3), normal(4, 5, 3), normal(4, 1, 2, 2)
    made = Outputs(torch.zeros(4, 2), {}, class_tokens={1: token}, features=features, images=pixels)
    doubled = made.map(lambda x: 2 * x)
    assert torch.equal(doubled.class_tokens[1], 2 * token)
    assert torch.equal(doubled.features, 2 * features)
    assert torch.equal(doubled.images, 2 * pixels)
    second = made.chunk(2)[1]
    assert torch.equal(second.class_tokens[1], token[2:])
    assert torch.equal(second.features, features[2:]) and torch.equal(second.images, pixels[2:])


@pytest.mark.parametrize(
    ("student", "teacher", "named"),
    [
        ("deit", "larger cait", "Cait"),
        ("cait", "larger deit", "Cait"),
        ("deit", "swin", "SwinTransformer"),
    ],
)
def test_cls_kd_refuses_networks_without_class_tokens_by_name(student, teacher, named):
    with pytest.raises(UserError, match=f"class token in every block, and {named} has none"):
        build("cls_kd", network(student), network(teacher))


def test_cls_kd_weighs_layer_pairs_by_their_share_and_the_gradient_passes_through_it():
    losses = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64, requires_grad=True)
    value = by_discrepancy(list(losses.unbind()), last=4.0)
    assert value.item() == pytest.approx((1 + 9 + 4 * 4) / 6)
    value.backward()
    expected = [(2 * own * loss * 6 - 26) / 36 for own, loss in ((1, 1), (1, 3), (4, 2))]
    assert losses.grad.tolist() == pytest.approx(expected)
    zero = torch.zeros(3, requires_grad=True)
    by_discrepancy(list(zero.unbind()), last=4.0).backward()
    assert zero.grad.tolist() == [0, 0, 0]


# ---- Proteus ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ("swin", "larger deit", "SwinTransformer cannot be run on some of its patches"),
        ("pooling vit", "larger deit", "class tokens, and VisionTransformer has none"),
        ("cait", "larger deit", "class tokens, and Cait has none"),
        ("deit", "swin", "class tokens, and SwinTransformer has none"),
        ("deit", "pooling vit", "class tokens, and VisionTransformer has none"),
    ],
)
def test_proteus_refuses_networks_without_class_tokens_by_name(student, teacher, words):
    with pytest.raises(UserError, match=words):
        build("proteus", network(student), network(teacher))


def test_labels_reach_the_classifier_of_proteus_alone():
    distiller = real("proteus")
    distiller(images(), torch.tensor([3, 1, 4, 1]))["cross_entropy"].backward()
    reached = {name for name, p in distiller.named_parameters() if p.grad is not None}
    assert reached == {"trainable_module.head.weight", "trainable_module.head.bias"}


@pytest.mark.parametrize(
    ("count", "seen"), [(1, [1]), (3, [1]), (4, [2]), (5, [2])], ids=lambda x: str(x)
)
def test_proteus_masks_the_first_half_of_the_images_and_draws_from_its_own_generator(count, seen):
    distiller, shown = real("proteus"), []
    hidden = distiller.auxiliary["masked"]
    hidden.register_forward_pre_hook(lambda _module, inputs: shown.append(inputs))
    labels = torch.arange(count)
    found = []
    for global_seed, own_seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        found.append(distiller(images(count), labels, [own_seed])["patch"].item())
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1] != found[2]
    assert [len(pixels) for _, pixels, _ in shown] == 3 * seen
    assert {count for _, _, masked in shown for count in masked.sum(dim=1).tolist()} == {8}


def test_proteus_never_shows_the_student_a_masked_patch():
    distiller = real("proteus")
    model, masked = distiller.trainable_module, torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 5] = True  # row 1, column 1
    pixels = images(2)
    features = distiller.auxiliary["masked"](model, pixels, masked)
    noise = torch.zeros_like(pixels)
    noise[:, :, 4:8, 4:8] = 100
    assert torch.equal(distiller.auxiliary["masked"](model, pixels + noise, masked), features)
    assert not torch.allclose(model.forward_features(pixels), features)
    assert not model.patch_embed._forward_hooks  # the hook is gone


# ---- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        pytest.param("vitkd", {"mask_ratio": 0.0}, "'mask_ratio'.*got 0.0", id="no mask"),
        pytest.param("vitkd", {"mask_ratio": 1.5}, "'mask_ratio'.*got 1.5", id="mask above 1"),
        pytest.param(
            "vitkd",
            {"layers": LayerMap(student=[0, 1], teacher=[0, 1])},
            r"at least three pairs, got blocks \[0, 1\]",
            id="short layer map",
        ),
        pytest.param(
            "projector_ensemble", {"projectors": 0}, "'projectors'.*got 0", id="no projector"
        ),
        pytest.param("masked_kd", {"keep": 0.0}, "'keep'.*got 0.0", id="no patch"),
        pytest.param("masked_kd", {"keep": 1.1}, "'keep'.*got 1.1", id="more than all patches"),
        pytest.param("proteus", {"mask_ratio": 0.0}, "'mask_ratio'.*got 0.0", id="nothing masked"),
        pytest.param("proteus", {"masked_images": 2.0}, "'masked_images'", id="more than all"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(method, given, words):
    with pytest.raises(UserError, match=words):
        build(method, network("deit"), network("larger cait"), **given)


@pytest.mark.parametrize("method", ["vitkd", "vkd", "projector_ensemble"])
def test_layer_methods_need_their_layer_map(method):
    definition = DEFINITIONS[method]
    module, _, name = definition["distiller"].partition(":")
    arguments = {key: value for key, value in definition["arguments"].items() if key != "layers"}
    with pytest.raises(UserError, match="'layers'"):
        getattr(import_module(module), name)(
            Plain(6),
            FrozenTeacher(Plain(6), most_tokens=196),
            image_shape=(3, 16, 16),
            most_tokens=196,
            alpha=0.3,
            temperature=2.0,
            **arguments,
        )


def test_a_teacher_that_needs_its_whole_grid_is_refused():
    with pytest.raises(UserError, match="SwinTransformer cannot be run on some of its patches"):
        build("masked_kd", network("deit"), network("swin"))
