"""Methods on logits, and label smoothing: golden values, gradients, invariances, refusals."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from torch import nn

from baselines.dist import correlation_losses, standardised
from baselines.dkd import decoupled_losses
from baselines.hard_kd import hard_label_loss
from baselines.label_smoothing import unsmoothed
from baselines.logits import split_target, target_classes
from baselines.nkd import normalised_losses
from manifold.distiller import FrozenTeacher
from manifold.errors import UserError
from manifold.settings import ROOT, read_yaml
from manifold.tokens import Outputs
from manifold.training.arguments import checked_arguments

DEFINITIONS = read_yaml(ROOT / "config/methods.yaml")
# (student logits, teacher logits, targets, tau) → unweighted losses
LOSSES = {
    "hard_kd": lambda s, t, y, tau: (hard_label_loss(s, t),),
    "dkd": lambda s, t, y, tau: decoupled_losses(s, t, target_classes(y, s), tau),
    "nkd": lambda s, t, y, tau: normalised_losses(s, t, target_classes(y, s), tau),
    "dist": lambda s, t, y, tau: correlation_losses(s, t, tau),
    "dist_standardised": lambda s, t, y, tau: correlation_losses(
        standardised(s), standardised(t), tau
    ),
}
GOLDEN = {
    name: json.loads((Path(__file__).parent / f"golden/{name}.json").read_text(encoding="utf-8"))
    for name in LOSSES
}
BATCH, CLASSES, TAU = 6, 7, 2.0


def normal(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def logits_and_targets(batch=BATCH, classes=CLASSES, dtype=torch.float64):
    """Student logits, teacher logits and mixed targets."""
    student, teacher, targets = (3 * normal(batch, classes, seed=seed) for seed in (1, 2, 3))
    return student.to(dtype), teacher.to(dtype), targets.softmax(dim=1)


def total(loss, student, teacher, targets, tau=TAU):
    """The sum of a method's losses, the first of two doubled so that they cannot trade places."""
    *first, last = LOSSES[loss](student, teacher, targets, tau)
    return 2 * sum(first) + last


def build(method, label_smoothing=0.0, **arguments):
    """A method as config/methods.yaml defines it, with networks that are never run.

    The recipe's alpha and temperature are such that a method that took them would show.
    """
    definition = DEFINITIONS[method]
    module, _, name = definition["distiller"].partition(":")
    kind = getattr(import_module(module), name)
    return kind(
        nn.Linear(1, 1),
        FrozenTeacher(nn.Linear(1, 1), most_tokens=196),
        image_shape=(1, 8, 8),
        most_tokens=196,
        alpha=0.3,
        temperature=7.0,
        label_smoothing=label_smoothing,
        **checked_arguments(kind, {**definition["arguments"], **arguments}),
    )


def terms(distiller, student, teacher, targets):
    return distiller.terms(Outputs(student, {}), Outputs(teacher, {}), targets)


def values(losses):
    return [loss.item() for loss in losses]


# ---- golden values ---------------------------------------------------------------------------

CASES = [
    pytest.param(loss, case, id=f"{loss}-seed-{case['seed']}")
    for loss, golden in GOLDEN.items()
    for case in golden["cases"]
]


def golden_inputs(case, dtype):
    """Student, teacher and targets, drawn as ``inputs`` of the golden files says."""
    rng = np.random.default_rng(case["seed"])
    shape = case["B"], case["C"]
    student, teacher = (case["scale"] * rng.standard_normal(shape) for _ in range(2))
    targets = rng.dirichlet(np.ones(case["C"]), size=case["B"])
    return [torch.tensor(array, dtype=dtype) for array in (student, teacher, targets)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize(("loss", "case"), CASES)
def test_losses_and_gradient_are_those_of_the_authors_code(loss, case, dtype, tolerance):
    student, teacher, targets = golden_inputs(case, dtype)
    student.requires_grad_()
    found = LOSSES[loss](student, teacher, targets, case["tau"])
    if loss == "hard_kd":
        found = (F.cross_entropy(student, targets), *found)
    assert {value.dtype for value in found} == {dtype}
    assert values(found) == pytest.approx(list(case["losses"].values()), rel=tolerance)
    weighted = sum(w * value for w, value in zip(case["weights"].values(), found, strict=True))
    assert weighted.item() == pytest.approx(case["total"], rel=tolerance)
    weighted.backward()
    norm = case["gradient_norm"]
    assert student.grad.norm().item() == pytest.approx(norm, rel=tolerance)
    first = student.grad.flatten()[:5].tolist()
    assert first == pytest.approx(case["gradient_first"], rel=tolerance, abs=tolerance * norm)


@pytest.mark.parametrize(("loss", "case"), CASES)
def test_the_methods_have_the_weights_and_terms_of_the_golden_totals(loss, case):
    student, teacher, targets = golden_inputs(case, torch.float64)
    arguments = {} if loss == "hard_kd" else {"tau": case["tau"]}
    found = terms(build(loss, **arguments), student, teacher, targets)
    label = 0.5 if loss == "hard_kd" else 1
    expected = {name: case["weights"][name] * value for name, value in case["losses"].items()}
    expected["cross_entropy"] = label * F.cross_entropy(student, targets).item()
    found = {name: term.item() for name, term in found.items()}
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_thousand_classes_meet_the_epsilon_of_the_authors_correlation():
    (case,) = (case for case in GOLDEN["dist"]["cases"] if case["C"] == 1000)
    student, teacher, _ = golden_inputs(case, torch.float64)
    own, other = student.softmax(dim=1).numpy(), teacher.softmax(dim=1).numpy()
    exact = 1 - np.mean([np.corrcoef(own[:, c], other[:, c])[0, 1] for c in range(1000)])
    golden = case["losses"]["intra_class"]
    assert exact != pytest.approx(golden, rel=1e-4)
    assert exact == pytest.approx(golden, rel=0.1)


# ---- values against the formula --------------------------------------------------------------


def test_hard_kd_gives_one_head_both_kinds_of_label():
    student, teacher, targets = logits_and_targets()
    log_p = np.log(student.softmax(dim=1).numpy())
    decisions = np.eye(CLASSES)[teacher.numpy().argmax(axis=1)]
    found = terms(build("hard_kd"), student, teacher, targets)
    assert found["cross_entropy"].item() == pytest.approx(
        -0.5 * (targets.numpy() * log_p).sum() / BATCH, rel=1e-12
    )
    assert found["hard"].item() == pytest.approx(-0.5 * (decisions * log_p).sum() / BATCH)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_kd_is_tckd_and_nckd_coupled_by_the_teachers_doubt(tau):
    # Zhao et al. 2022: KL = TCKD + (1 − p_t)·NCKD for each image.
    student, teacher, targets = logits_and_targets(batch=1)
    target, non_target = LOSSES["dkd"](student, teacher, targets, tau)
    own, other = ((logits / tau).log_softmax(dim=1) for logits in (student, teacher))
    divergence = tau**2 * (other.exp() * (other - own)).sum()
    doubt = 1 - other.exp()[0, targets.argmax()]
    assert (target + doubt * non_target).item() == pytest.approx(divergence.item(), rel=1e-12)


def test_nkd_is_a_weighted_label_term_and_nckd_with_the_teachers_entropy():
    student, teacher, targets = logits_and_targets()
    classes = targets.argmax(dim=1)
    target, non_target = LOSSES["nkd"](student, teacher, targets, TAU)
    sure = teacher.softmax(dim=1).gather(1, classes[:, None])[:, 0]
    expected = (sure * F.cross_entropy(student, classes, reduction="none")).mean()
    assert target.item() == pytest.approx(expected.item(), rel=1e-12)
    _, divergence = LOSSES["dkd"](student, teacher, targets, TAU)
    _, entropy = LOSSES["nkd"](teacher, teacher, targets, TAU)
    assert (non_target - entropy).item() == pytest.approx(divergence.item(), rel=1e-12)


@pytest.mark.parametrize("loss", ["dist", "dist_standardised"])
def test_dist_is_one_minus_the_correlations(loss):
    student, teacher, _ = (x.numpy() for x in logits_and_targets())
    if loss == "dist_standardised":
        student, teacher = (
            (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)
            for x in (student, teacher)
        )
    own, other = (np.exp(x / TAU) for x in (student, teacher))
    own, other = (x / x.sum(axis=1, keepdims=True) for x in (own, other))

    def distance(first, second):
        pairs = zip(first, second, strict=True)
        return TAU**2 * (1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))

    found = values(LOSSES[loss](*logits_and_targets(), TAU))
    # The authors' 1e-8 in the divisor is all that differs.
    assert found == pytest.approx([distance(own, other), distance(own.T, other.T)], rel=1e-5)


def test_tau_is_the_methods_own_and_the_recipes_is_not_used():
    student, teacher, targets = logits_and_targets()
    for method in ("dkd", "nkd", "dist", "dist_standardised"):
        first, second = build(method, tau=1.0), build(method, tau=3.0)
        assert first.temperature == second.temperature == 7
        one, three = (
            {name: term.item() for name, term in terms(d, student, teacher, targets).items()}
            for d in (first, second)
        )
        assert one["cross_entropy"] == three["cross_entropy"]
        assert sum(one.values()) != pytest.approx(sum(three.values()), rel=1e-2)


# ---- gradients and invariances ---------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_that_of_the_value(loss):
    student, teacher, targets = logits_and_targets(batch=4, classes=5)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: total(loss, s, teacher, targets), student)


@pytest.mark.parametrize("loss", ["dkd", "dist", "dist_standardised"])
def test_loss_and_gradient_vanish_at_a_perfect_student(loss):
    _, teacher, targets = logits_and_targets()
    student = teacher.clone().requires_grad_()
    value = total(loss, student, teacher, targets)
    value.backward()
    # The authors' 1e-8 in the divisor of the correlation keeps it a little below 1.
    assert value.item() == pytest.approx(0, abs=1e-14 if loss == "dkd" else 1e-5)
    assert student.grad.norm() < (1e-14 if loss == "dkd" else 1e-5)


def test_at_a_perfect_student_nkd_keeps_the_entropy_alone():
    _, teacher, targets = logits_and_targets()
    student = teacher.clone().requires_grad_()
    _, non_target = LOSSES["nkd"](student, teacher, targets, TAU)
    non_target.backward()
    _, others = split_target(teacher, targets.argmax(dim=1))
    entropy = torch.distributions.Categorical(logits=others / TAU).entropy().mean()
    assert non_target.item() == pytest.approx(TAU**2 * entropy.item(), rel=1e-12)
    assert student.grad.norm() < 1e-14


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_ignores_the_order_of_images_and_of_classes(loss):
    student, teacher, targets = logits_and_targets()
    expected = total(loss, student, teacher, targets).item()
    images, classes = torch.tensor([4, 0, 5, 2, 1, 3]), torch.tensor([6, 3, 0, 5, 1, 4, 2])
    for order in ((images, slice(None)), (slice(None), classes)):
        moved = [tensor[order] for tensor in (student, teacher, targets)]
        assert total(loss, *moved).item() == pytest.approx(expected, rel=1e-12)
        apart = total(loss, moved[0], teacher, targets).item()
        assert apart != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_ignores_a_shift_of_an_images_logits_and_standardised_a_scale_too(loss, side):
    given = list(logits_and_targets())
    expected = total(loss, *given).item()
    given[side] = given[side] + 5 * normal(BATCH, 1, seed=4)
    assert total(loss, *given).item() == pytest.approx(expected, rel=1e-10)
    given[side] = given[side] * normal(BATCH, 1, seed=5).exp()
    scaled = total(loss, *given).item()
    # Hard labels ignore the scale of the teacher's logits; so do Z-scores, but for their 1e-7.
    same = loss == "dist_standardised" or (loss == "hard_kd" and side == 1)
    assert (scaled == pytest.approx(expected, rel=1e-6)) is same


# ---- precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_float32_whatever_the_logits_and_autocast(loss, dtype, autocast):
    student, teacher, targets = logits_and_targets(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = total(loss, student, teacher, targets.float())
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert value.item() == total(loss, student.float(), teacher.float(), targets.float()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", [*LOSSES, "label_smoothing"])
def test_terms_under_autocast_are_close_to_float32(method, dtype):
    distiller = build(method)
    student, teacher, targets = logits_and_targets(batch=8, classes=100, dtype=torch.float32)
    expected = terms(distiller, student, teacher, targets.float())
    own = student.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        found = terms(distiller, own, teacher.to(dtype), targets.float())
    sum(found.values()).backward()
    assert own.grad.isfinite().all() and own.grad.any()
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=0.02), name


SURE = torch.eye(5) * 400 - 200
FLAT = torch.zeros(5, 5)


@pytest.mark.parametrize(
    ("student", "teacher", "dtype"),
    [
        pytest.param(SURE, SURE, torch.float16, id="sure and agreed"),
        pytest.param(SURE, SURE.flip(0), torch.float16, id="sure and at odds"),
        pytest.param(SURE, FLAT, torch.float16, id="flat teacher"),
        # In float16 the gradient of a correlation at an exactly flat student overflows.
        pytest.param(FLAT, SURE, torch.float32, id="flat student"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_certain_and_flat_networks_give_finite_losses_and_gradients(loss, student, teacher, dtype):
    targets = torch.tensor([0, 1, 2, 0, 1])  # a sure student is wrong on the last two
    student = student.to(dtype, copy=True).requires_grad_()
    value = total(loss, student, teacher.to(dtype), targets, tau=1.0)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_single_image_and_two_classes_are_enough(loss):
    for batch, classes in ((1, 4), (4, 2)):
        student, teacher, targets = logits_and_targets(batch, classes)
        student.requires_grad_()
        total(loss, student, teacher, targets).backward()
        assert student.grad.isfinite().all()


# ---- the class of a target -------------------------------------------------------------------


def test_the_target_class_is_the_label_or_the_larger_share_of_a_mixed_one():
    labels = torch.tensor([2, 0, 1])
    logits = torch.zeros(3, 4)
    assert torch.equal(target_classes(labels, logits), labels)
    for share, expected in ((1.0, [2, 0, 1]), (0.7, [2, 0, 1]), (0.2, [1, 0, 2])):
        mixed = mixup_target(labels, 4, lam=share, smoothing=0.1)
        assert target_classes(mixed, logits).tolist() == expected


@pytest.mark.parametrize("loss", ["dkd", "nkd"])
def test_losses_on_the_target_class_follow_it(loss):
    student, teacher, _ = logits_and_targets()
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    mixed = 0.8 * F.one_hot(labels, CLASSES) + 0.2 / CLASSES
    expected = values(LOSSES[loss](student, teacher, labels, TAU))
    assert values(LOSSES[loss](student, teacher, mixed, TAU)) == expected
    assert values(LOSSES[loss](student, teacher, labels.flip(0), TAU)) != expected


def test_logits_are_split_at_the_target_class():
    target, others = split_target(torch.arange(12.0).reshape(3, 4), torch.tensor([0, 2, 3]))
    assert target.tolist() == [0, 6, 11]
    assert others.tolist() == [[1, 2, 3], [4, 5, 7], [8, 9, 10]]


# ---- label smoothing -------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5, 0.31])
@pytest.mark.parametrize("recipes", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("own", [0.0, 0.1, 0.3])
def test_label_smoothing_takes_the_place_of_the_recipes(own, recipes, share):
    labels = torch.tensor([3, 1, 4, 1, 5, 3])  # the first and the last are mixed with their like
    student, _, _ = logits_and_targets(dtype=torch.float32)
    given, expected = (
        mixup_target(labels, CLASSES, lam=share, smoothing=smoothing)
        for smoothing in (recipes, own)
    )
    distiller = build("label_smoothing", smoothing=own, label_smoothing=recipes)
    found = terms(distiller, student, student, given)
    assert set(found) == {"cross_entropy"}
    reference = terms(build("none"), student, student, expected)["cross_entropy"]
    assert found["cross_entropy"].item() == pytest.approx(reference.item(), rel=1e-6)


def test_label_smoothing_is_its_formula():
    student, _, mixed = logits_and_targets()
    expected = -((0.8 * mixed + 0.2 / CLASSES) * student.log_softmax(dim=1)).sum() / BATCH
    distiller = build("label_smoothing", smoothing=0.2, label_smoothing=0.1)
    found = terms(distiller, student, student, 0.9 * mixed + 0.1 / CLASSES)
    assert found["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_labels_behind_smoothed_targets_are_one_hot(classes):
    labels = torch.arange(classes)
    given = mixup_target(labels, classes, smoothing=0.1)
    found = unsmoothed(given, torch.zeros(classes, classes), 0.1)
    torch.testing.assert_close(found, torch.eye(classes), rtol=0, atol=1e-6)


def test_the_configured_control_removes_the_smoothing_and_asks_no_teacher():
    distiller = build("label_smoothing")
    assert distiller.smoothing == 0
    assert not distiller.uses_teacher
    student, _, _ = logits_and_targets()
    labels = torch.tensor([3, 1, 4, 1, 5, 2])
    found = distiller.terms(Outputs(student, {}), None, labels)["cross_entropy"]
    assert found.item() == pytest.approx(F.cross_entropy(student, labels).item(), rel=1e-12)


def test_label_smoothing_gradient_and_order_of_the_batch():
    distiller = build("label_smoothing", smoothing=0.2, label_smoothing=0.1)
    student, _, targets = logits_and_targets(batch=4, classes=5)
    student.requires_grad_()

    def loss(logits, given=targets):
        return terms(distiller, logits, logits, given)["cross_entropy"]

    assert torch.autograd.gradcheck(loss, student)
    moved = loss(student.flip(0), targets.flip(0)).item()
    assert moved == pytest.approx(loss(student).item(), rel=1e-12)


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param((4, 8), (3, 8), id="batch"),
        pytest.param((1, 8), (4, 8), id="batch that would broadcast"),
        pytest.param((4, 8), (4, 9), id="classes"),
        pytest.param((4, 1), (4, 8), id="classes that would broadcast"),
        pytest.param((8,), (8,), id="1-D"),
        pytest.param((4, 2, 8), (4, 2, 8), id="3-D"),
        pytest.param((4, 8), (4, 2, 8), id="3-D teacher"),
        pytest.param((0, 8), (0, 8), id="no images"),
        pytest.param((4, 1), (4, 1), id="a single class"),
    ],
)
@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda s, t: hard_label_loss(s, t), id="hard_kd"),
        pytest.param(lambda s, t: decoupled_losses(s, t, torch.tensor([0]), 1.0), id="dkd"),
        pytest.param(lambda s, t: normalised_losses(s, t, torch.tensor([0]), 1.0), id="nkd"),
        pytest.param(lambda s, t: correlation_losses(s, t, 1.0), id="dist"),
    ],
)
def test_logits_that_do_not_fit_are_refused_with_both_shapes(loss, student, teacher):
    with pytest.raises(ValueError) as error:
        loss(torch.ones(student), torch.ones(teacher))
    assert f"student {student}" in str(error.value)
    assert f"teacher {teacher}" in str(error.value)


@pytest.mark.parametrize("targets", [(5,), (5, 7), (6, 8), (6, 1), (6, 7, 1), ()], ids=str)
@pytest.mark.parametrize("method", ["dkd", "nkd", "label_smoothing"])
def test_targets_of_other_logits_are_refused_with_both_shapes(method, targets):
    student, teacher, _ = logits_and_targets()
    with pytest.raises(ValueError) as error:
        terms(build(method), student, teacher, torch.zeros(targets))
    assert f"targets {targets}" in str(error.value)
    assert "logits (6, 7)" in str(error.value)


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        *(
            pytest.param(method, {"tau": tau}, ["'tau'", str(tau)], id=f"{method} at {tau}")
            for method in ("dkd", "nkd", "dist")
            for tau in (0, -1.0, float("nan"))
        ),
        pytest.param("dist", {"standardise": "no"}, ["'standardise'", "'no'"], id="no switch"),
        pytest.param("dist", {"standardise": 1}, ["'standardise'", "1"], id="a number as switch"),
        *(
            pytest.param(
                "label_smoothing",
                {"smoothing": smoothing},
                ["'smoothing'", str(smoothing)],
                id=f"smoothing {smoothing}",
            )
            for smoothing in (-0.1, 1.0, float("nan"))
        ),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(method, arguments, words):
    with pytest.raises(UserError) as error:
        build(method, **arguments)
    assert [word for word in words if word not in str(error.value)] == []
