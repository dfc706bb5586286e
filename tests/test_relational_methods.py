"""AT, RKD, CRD, CKA, SpectralKD, RSD, UNIC, OFA-KD: golden values, formulas, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import test_methods
import torch
from test_methods import BATCH, arguments, both_outputs, cross_entropy, mixed_targets, values

from baselines.attention_transfer import attention_loss
from baselines.cka import alignment_loss
from baselines.crd import contrastive_loss
from baselines.ofa import Branch, ofa_loss, stages
from baselines.rkd import relational_losses
from baselines.rsd import redundancy_loss
from baselines.spectralkd import spectral_loss
from baselines.unic import feature_loss
from manifold.errors import UserError
from manifold.settings import LayerMap

build = test_methods.build
GOLDEN = Path(__file__).parent / "golden"
METHODS = ["attention_transfer", "rkd", "crd", "cka", "spectralkd", "ofa", "rsd", "unic"]
PAPER = list(zip([0, 1, 2, 3], [0, 1, 3, 4], strict=True))  # blocks of the smoke scale's maps
LAST = [(3, 4)]


def tokens(*shape, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def rotation(size, seed=0):
    return torch.linalg.qr(tokens(size, size, seed=seed)).Q


class Loss(NamedTuple):
    """A loss, two shapes that it takes, and which orthogonal maps of the channels it ignores."""

    of: Callable
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    ignores: str  # a map of "each" network alone, one "common" to both, or "none"
    vanishes: bool = True  # for a perfect student

    def features(self, dtype=torch.float64):
        shapes = (self.student, self.teacher)
        return [tokens(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]


LOSSES = {
    "attention": Loss(attention_loss, (4, 6, 5), (4, 6, 7), "each"),
    "distance": Loss(lambda s, t: relational_losses(s, t)[0], (5, 3), (5, 4), "each"),
    "angle": Loss(lambda s, t: relational_losses(s, t)[1], (5, 3), (5, 4), "each"),
    "contrast": Loss(lambda s, t: contrastive_loss(s, t, 0.07), (5, 4), (5, 4), "common", False),
    "alignment": Loss(alignment_loss, (5, 2, 3), (5, 2, 4), "each"),
    "spectrum": Loss(lambda s, t: spectral_loss(s, t, (2, 3)), (4, 6, 3), (4, 6, 3), "common"),
    "spectrum, wider teacher": Loss(
        lambda s, t: spectral_loss(s, t, (2, 3)), (4, 6, 3), (4, 6, 5), "none", False
    ),
    "redundancy": Loss(lambda s, t: redundancy_loss(s, t, 0.01), (9, 4), (9, 4), "none", False),
    "features": Loss(feature_loss, (4, 6, 5), (4, 6, 5), "none"),
    "ofa": Loss(lambda s, t: ofa_loss(s, t, t.argmax(1), 1.5), (4, 5), (4, 5), "none", False),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def those(**wanted):
    """Parametrise over the losses with these properties."""
    kept = {
        name: loss
        for name, loss in LOSSES.items()
        if all(getattr(loss, key) == value for key, value in wanted.items())
    }
    return pytest.mark.parametrize("loss", kept.values(), ids=kept)


# ---- golden values ---------------------------------------------------------------------------


def weighted_relations(student, teacher, case):
    distance, angle = relational_losses(student, teacher)
    if student.dtype == torch.float64:
        found = {"distance": distance.item(), "angle": angle.item()}
        assert found == pytest.approx({name: case[name] for name in found}, rel=1e-9)
    return 25 * distance + 50 * angle


AUTHORS = {
    "attention_transfer": lambda student, teacher, case: attention_loss(student, teacher),
    "rkd": weighted_relations,
    "cka": lambda student, teacher, case: alignment_loss(student, teacher),
    "spectralkd": lambda student, teacher, case: spectral_loss(student, teacher, case["grid"]),
    "rsd": lambda student, teacher, case: redundancy_loss(student, teacher, 0.01),
    "unic": lambda student, teacher, case: feature_loss(student, teacher),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", AUTHORS)
def test_loss_and_gradient_are_those_of_the_authors_code(name, number, dtype):
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    case = golden["cases"][number]
    rng = np.random.default_rng(case["seed"])
    student, teacher = (
        torch.tensor(rng.standard_normal(case[side]), dtype=dtype)
        for side in ("student", "teacher")
    )
    student.requires_grad_()
    loss = AUTHORS[name](student, teacher, case)
    loss.backward()
    exact = dtype == torch.float64 and golden["dtype"] == "float64"
    check_golden(case, loss, student.grad, 1e-9 if exact else 1e-5)


def check_golden(case, loss, gradient, tolerance, prefix=""):
    norm = case[f"{prefix}gradient_norm"]
    assert loss.item() == pytest.approx(case[f"{prefix}loss"], rel=tolerance)
    assert gradient.norm().item() == pytest.approx(norm, rel=tolerance)
    assert gradient.flatten()[:4].tolist() == pytest.approx(
        case[f"{prefix}gradient_first"], rel=tolerance, abs=tolerance * norm
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("number", range(3), ids=["no merging", "one merging", "two mergings"])
def test_ofa_and_its_branches_are_those_of_the_authors_code(number, dtype, tolerance):
    case = json.loads((GOLDEN / "ofa.json").read_text(encoding="utf-8"))["cases"][number]
    rng = np.random.default_rng(case["seed"])

    def draw(*shape):
        return torch.tensor(rng.standard_normal(shape), dtype=dtype)

    images, side, width, classes = (case[key] for key in ("images", "side", "width", "classes"))
    logits, teacher, targets = (draw(images, classes) for _ in range(3))
    features = [draw(images, side * side, width).requires_grad_() for _ in range(4)]
    branches = [
        Branch((side, side), width, width, classes, blocks=blocks).to(dtype)
        for blocks in (3, 2, 1, 1)
    ]
    for branch in branches:
        for parameter in branch.parameters():
            parameter.data = 0.3 * draw(*parameter.shape)
    logits.requires_grad_()

    def loss(student):
        return ofa_loss(student, teacher, targets.argmax(dim=1), case["exponent"])

    pairs = zip(branches, features, strict=True)
    total, final = sum(loss(branch(stage)) for branch, stage in pairs), loss(logits)
    (total + final).backward()
    check_golden(case, total, torch.stack([stage.grad for stage in features]), tolerance)
    check_golden(case, final, logits.grad, tolerance, prefix="logits_")
    found = cross_entropy(logits.detach(), targets.softmax(dim=1))
    assert found == pytest.approx(case["cross_entropy"], rel=tolerance)


# ---- the contrast by its formula -------------------------------------------------------------


def contrast_reference(student, teacher, tau):
    own, other = (
        np.asarray(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (student, teacher)
    )
    total = 0
    for image in range(len(own)):
        for anchor, candidates in ((own[image], other), (other[image], own)):
            scores = np.exp(candidates @ anchor / tau)
            total -= np.log(scores[image] / scores.sum()) / len(own)
    return total


@pytest.mark.parametrize("tau", [0.07, 0.5, 3.0])
@pytest.mark.parametrize("shape", [(1, 4), (2, 1), (6, 3), (9, 128)])
def test_contrast_is_its_formula(shape, tau):
    student, teacher = tokens(*shape, seed=1), tokens(*shape, seed=2)
    found = contrastive_loss(student, teacher, tau).item()
    assert found == pytest.approx(contrast_reference(student, teacher, tau), rel=1e-9, abs=1e-15)


def test_contrast_of_a_perfect_student_is_what_temperature_leaves():
    perfect = contrastive_loss(torch.eye(6).double(), torch.eye(6).double(), 0.07).item()
    assert perfect == pytest.approx(2 * np.log1p(5 * np.exp(-1 / 0.07)), rel=1e-9)
    blind = contrastive_loss(torch.ones(6, 2).double(), torch.eye(6, 2).double(), 0.07).item()
    assert blind > 2 * np.log(6) - 1e-9 > perfect


# ---- invariances and zeros -------------------------------------------------------------------


@every_loss
def test_gradient_is_that_of_the_value(loss):
    student, teacher = loss.features()
    assert torch.autograd.gradcheck(lambda s: loss.of(s, teacher), student.requires_grad_())


@every_loss
def test_loss_ignores_the_order_of_the_images(loss):
    student, teacher = loss.features()
    order = torch.arange(len(student)).roll(1)
    value = loss.of(student, teacher).item()
    assert loss.of(student[order], teacher[order]).item() == pytest.approx(value, rel=1e-12)
    assert loss.of(student[order], teacher).item() != pytest.approx(value, rel=1e-3)


@those(ignores="each")
def test_loss_ignores_an_orthogonal_map_of_either_networks_channels(loss):
    student, teacher = loss.features()
    value = loss.of(student, teacher).item()
    mapped = student @ rotation(student.shape[-1])
    assert loss.of(mapped, teacher).item() == pytest.approx(value, rel=1e-9)
    mapped = teacher @ rotation(teacher.shape[-1])
    assert loss.of(student, mapped).item() == pytest.approx(value, rel=1e-9)


@those(ignores="common")
def test_loss_ignores_an_orthogonal_map_common_to_both(loss):
    student, teacher = loss.features()
    value = loss.of(student, teacher).item()
    turn = rotation(student.shape[-1])
    assert loss.of(student @ turn, teacher @ turn).item() == pytest.approx(value, rel=1e-9)
    assert loss.of(student @ turn, teacher).item() != pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("name", ["attention", "distance", "angle", "alignment"])
def test_loss_ignores_the_scale_of_the_features(name):
    student, teacher = LOSSES[name].features()
    value = LOSSES[name].of(student, teacher).item()
    assert LOSSES[name].of(37 * student, teacher / 5).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", ["distance", "angle", "alignment"])
def test_loss_ignores_an_offset_common_to_all_images(name):
    student, teacher = LOSSES[name].features()
    value = LOSSES[name].of(student, teacher).item()
    assert LOSSES[name].of(student + 3, teacher - 7).item() == pytest.approx(value, rel=1e-9)


@those(vanishes=True)
def test_loss_vanishes_for_a_perfect_student(loss):
    student, teacher = loss.features()
    perfect = student @ rotation(student.shape[-1]) if loss.ignores == "each" else student
    assert loss.of(student, perfect).item() == pytest.approx(0, abs=1e-15)
    assert loss.of(student, teacher).item() > 1e-3


def test_spectrum_vanishes_where_the_teachers_neighbouring_channels_average_to_the_students():
    student, spread = tokens(2, 6, 3), tokens(2, 6, 3, seed=1)
    teacher = torch.stack([student + spread, student - spread], dim=-1).flatten(2)
    assert spectral_loss(student, teacher, (2, 3)).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("exponent", [1.0, 1.5])
def test_ofa_is_least_where_the_student_is_the_normalised_aim(exponent):
    teacher, classes = tokens(4, 5), torch.tensor([0, 1, 2, 3])
    target = torch.nn.functional.one_hot(classes, 5)
    aim = (teacher.softmax(dim=1) + target) ** exponent - target
    best = aim.log().requires_grad_()
    ofa_loss(best, teacher, classes, exponent).backward()
    assert best.grad.abs().max() < 1e-12
    if exponent == 1:
        assert torch.allclose(best.softmax(dim=1), teacher.softmax(dim=1))


@pytest.mark.parametrize("name", ["distance", "angle", "contrast", "alignment"])
def test_one_image_has_no_relations(name):
    student = tokens(1, 4).requires_grad_()
    value = LOSSES[name].of(student, tokens(1, 4, seed=1))
    value.backward()
    assert value.item() == 0
    assert not student.grad.any()


def test_alignment_of_nearly_equal_float32_features_is_accurate():
    student, noise = tokens(6, 4, 8), tokens(6, 4, 8, seed=1)
    student, teacher = student.float(), (student + 1e-3 * noise).float()
    expected = alignment_loss(student.double(), teacher.double()).item()
    assert 0 < expected < 1e-6
    assert alignment_loss(student, teacher).item() == pytest.approx(expected, rel=1e-2)


# ---- precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_loss
def test_loss_is_taken_in_float32_whatever_the_features_and_autocast(loss, dtype):
    student, teacher = loss.features(dtype)
    student.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = loss.of(student, teacher)
        value.backward()
    assert value.dtype == torch.float32
    assert value.item() == loss.of(student.float(), teacher.float()).item()
    assert student.grad.isfinite().all()


# ---- the methods -----------------------------------------------------------------------------


def check_terms(distiller, **expected):
    """Hold the terms for random outputs to the expected ones, functions of both outputs."""
    student, teacher = both_outputs(distiller)
    targets = mixed_targets()
    expected = {name: function(student, teacher) for name, function in expected.items()}
    expected.setdefault("cross_entropy", cross_entropy(student.logits, targets))
    found = values(distiller.terms(student, teacher, targets))
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def over(pairs, function):
    """A function of both outputs: the sum of a loss over layer pairs."""
    return lambda student, teacher: sum(
        function(student.tokens[own], teacher.tokens[other]).item() for own, other in pairs
    )


def test_attention_transfer_sums_its_layer_pairs(build):
    distiller = build("attention_transfer", **arguments("attention_transfer", weight=10.0))
    check_terms(distiller, attention=over(PAPER, lambda s, t: 10 * attention_loss(s, t)))


@pytest.mark.parametrize(("layers", "pairs"), [("last", LAST), ("paper", PAPER)])
def test_rkd_relates_the_mean_tokens_and_averages_the_layer_pairs(build, layers, pairs):
    distiller = build("rkd", **arguments("rkd", layers=layers, distance=3.0, angle=5.0))

    def term(index, weight):
        return over(
            pairs, lambda s, t: weight * relational_losses(s.mean(1), t.mean(1))[index] / len(pairs)
        )

    check_terms(distiller, distance=term(0, 3), angle=term(1, 5))


@pytest.mark.parametrize(("layers", "pairs"), [("last", LAST), ("paper", PAPER)])
def test_crd_contrasts_the_projected_mean_tokens(build, layers, pairs):
    distiller = build("crd", **arguments("crd", layers=layers, weight=2.0, dimensions=7)).double()
    projections = zip(distiller.auxiliary["student"], distiller.auxiliary["teacher"], strict=True)
    weights = [
        [p.detach().numpy() for net in pair for p in net.parameters()] for pair in projections
    ]

    def contrast(student, teacher):
        total = 0
        for (own, other), (w_own, b_own, w_other, b_other) in zip(pairs, weights, strict=True):
            total += contrast_reference(
                student.tokens[own].numpy().mean(axis=1) @ w_own.T + b_own,
                teacher.tokens[other].numpy().mean(axis=1) @ w_other.T + b_other,
                tau=0.07,
            )
        return 2 * total / len(pairs)

    assert [w_own.shape for w_own, *_ in weights] == [(7, 24)] * len(pairs)
    check_terms(distiller, contrast=contrast)


@pytest.mark.parametrize(("layers", "pairs"), [("last", LAST), ("paper", PAPER)])
def test_cka_averages_its_layer_pairs(build, layers, pairs):
    distiller = build("cka", **arguments("cka", layers=layers, weight=4.0))
    check_terms(
        distiller, alignment=over(pairs, lambda s, t: 4 * alignment_loss(s, t) / len(pairs))
    )


@pytest.mark.parametrize(
    ("ends", "pairs"), [(1, [PAPER[0], PAPER[-1]]), (2, PAPER), (9, PAPER)], ids=str
)
def test_spectralkd_averages_the_ends_of_its_layer_map(build, ends, pairs):
    distiller = build("spectralkd", **arguments("spectralkd", ends=ends, weight=4.0))
    own, other = (list(blocks) for blocks in zip(*pairs, strict=True))
    assert distiller.layers == LayerMap(student=own, teacher=other)
    student, teacher = both_outputs(distiller)
    soft_kd = values(distiller.soft_kd(student, teacher, mixed_targets()))
    check_terms(
        distiller,
        spectrum=over(pairs, lambda s, t: 4 * spectral_loss(s, t, (4, 4)) / len(pairs)),
        **{name: lambda *_, value=value: value for name, value in soft_kd.items()},
    )


def test_ofa_sums_its_branches_and_takes_the_largest_share_of_a_mixed_target(build):
    distiller = build("ofa", **arguments("ofa", logits=3.0, branches=5.0, exponent=1.3)).double()
    classes = mixed_targets().argmax(dim=1)

    def branches(student, teacher):
        logits = [
            branch(student.tokens[block])
            for branch, block in zip(distiller.auxiliary["branches"], [0, 1, 2, 3], strict=True)
        ]
        return 5 * sum(ofa_loss(own, teacher.logits, classes, 1.3).item() for own in logits)

    check_terms(
        distiller,
        branches=branches,
        logits=lambda s, t: 3 * ofa_loss(s.logits, t.logits, classes, 1.3).item(),
    )
    assert [len(branch.blocks) for branch in distiller.auxiliary["branches"]] == [3, 2, 1, 1]
    assert [branch.head.out_features for branch in distiller.auxiliary["branches"]] == [10] * 4


def test_ofa_loss_is_its_formula():
    student, teacher = tokens(3, 4, seed=1), tokens(3, 4, seed=2)
    classes = [2, 0, 3]
    own, other = (np.exp(test_methods.log_softmax(logits)) for logits in (student, teacher))
    expected = 0
    for image, target in enumerate(classes):
        for k in range(4):
            p = other[image, k]
            aim = (1 + p) ** 1.5 - 1 if k == target else p**1.5
            expected -= aim * np.log(own[image, k]) / 3
    found = ofa_loss(student, teacher, torch.tensor(classes), 1.5).item()
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("count", "kept"),
    [(8, [1, 3, 5, 7]), (4, [0, 1, 2, 3]), (12, [2, 5, 8, 11]), (2, [0, 1]), (1, [0])],
)
def test_ofa_spreads_its_stages_over_the_layer_map(count, kept):
    assert stages(count) == kept


@pytest.mark.parametrize(
    ("grid", "channels", "features", "mergings"),
    [((4, 4), 24, 24, 0), ((7, 7), 24, 24, 0), ((14, 14), 8, 24, 1), ((56, 56), 4, 8, 3)],
)
def test_ofa_branch_merges_patches_down_to_seven_a_side(grid, channels, features, mergings):
    branch = Branch(grid, channels, features, classes=5, blocks=1)
    merges = [layer for layer in branch.merge if hasattr(layer, "reduction")]
    assert len(merges) == mergings
    assert branch(tokens(2, grid[0] * grid[1], channels, dtype=torch.float32)).shape == (2, 5)


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "student", "teacher"),
    [
        pytest.param("attention", (2, 6, 5), (3, 6, 5), id="attention: batch"),
        pytest.param("attention", (2, 6, 5), (2, 5, 5), id="attention: positions"),
        pytest.param("attention", (1, 6, 5), (2, 6, 5), id="attention: batch that would broadcast"),
        pytest.param("attention", (2, 6), (2, 6), id="attention: 2-D"),
        pytest.param("distance", (4, 3), (5, 3), id="relations: batch"),
        pytest.param("angle", (1, 3), (5, 3), id="relations: batch that would broadcast"),
        pytest.param("angle", (4, 2, 3), (4, 2, 3), id="relations: 3-D"),
        pytest.param("contrast", (4, 3), (5, 3), id="contrast: batch"),
        pytest.param("contrast", (4, 3), (4, 5), id="contrast: dimensions"),
        pytest.param("contrast", (4, 2, 3), (4, 2, 3), id="contrast: 3-D"),
        pytest.param("alignment", (4, 2, 3), (5, 2, 3), id="alignment: batch"),
        pytest.param("alignment", (1, 2, 3), (5, 2, 3), id="alignment: batch that would broadcast"),
        pytest.param("spectrum", (2, 6, 3), (3, 6, 3), id="spectrum: batch"),
        pytest.param("spectrum", (2, 6, 3), (2, 8, 3), id="spectrum: positions"),
        pytest.param("spectrum", (2, 8, 3), (2, 8, 3), id="spectrum: grid"),
        pytest.param("spectrum", (2, 6, 5), (2, 6, 3), id="spectrum: wider student"),
        pytest.param("spectrum", (6, 3), (6, 3), id="spectrum: 2-D"),
        pytest.param("ofa", (4, 5), (3, 5), id="ofa: batch"),
        pytest.param("ofa", (4, 5), (4, 6), id="ofa: classes"),
        pytest.param("ofa", (4, 2, 5), (4, 2, 5), id="ofa: 3-D"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(name, student, teacher):
    with pytest.raises(ValueError) as error:
        LOSSES[name].of(torch.ones(student), torch.ones(teacher))
    assert f"student {student}" in str(error.value)
    assert f"teacher {teacher}" in str(error.value)


def test_ofa_refuses_classes_of_another_batch():
    with pytest.raises(ValueError, match=r"\(3,\).*\(4, 5\)"):
        ofa_loss(torch.ones(4, 5), torch.ones(4, 5), torch.zeros(3, dtype=torch.long), 1.0)


WIDE = {"pairs": {test_methods.PAIR: {"student": {"arguments": {"embed_dim": 48}}}}}
ODD = {"pairs": {test_methods.PAIR: {"student": {"arguments": {"embed_dim": 26, "num_heads": 2}}}}}


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        pytest.param("crd", arguments("crd", tau=0.0), ["'tau'", "0.0"], id="tau"),
        pytest.param("crd", arguments("crd", dimensions=0), ["'dimensions'", "0"], id="dimensions"),
        pytest.param("spectralkd", arguments("spectralkd", ends=0), ["'ends'", "0"], id="ends"),
        pytest.param("spectralkd", WIDE, ["block 0", "48", "32"], id="wider student"),
        pytest.param("ofa", ODD, ["4 heads", "26"], id="heads that do not divide the width"),
    ],
)
def test_a_method_that_cannot_be_built_names_the_culprit(build, method, overrides, words):
    with pytest.raises(UserError) as error:
        build(method, **overrides)
    words = [f"method {method!r}", *words]
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("spectralkd", {"weight": 1.0, "ends": 1}),
        ("ofa", {"logits": 1.0, "branches": 1.0, "exponent": 1.0}),
    ],
)
def test_a_method_that_chooses_from_its_layer_map_asks_for_one(build, method, given):
    built = build(method)
    with pytest.raises(UserError, match="'layers'"):
        type(built)(
            built.trainable_module,
            built.teacher,
            image_shape=(1, 8, 8),
            most_tokens=196,
            alpha=0.5,
            temperature=1.0,
            **given,
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_method_takes_a_relational_batch_of_a_shard_alone(build, method):
    distiller = build(method).eval()
    images, labels = test_methods.batch()
    whole = distiller(images, labels, [0, 1])
    parts = [
        distiller(part, answers)
        for part, answers in zip(images.chunk(2), labels.chunk(2), strict=True)
    ]
    mean = sum(part["loss"].item() for part in parts) / 2
    assert len(images) == BATCH
    assert whole["loss"].item() == pytest.approx(mean, rel=1e-5)
