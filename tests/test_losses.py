"""The manifold losses and the SP loss: golden values, accuracy, memory, gradients, refusals."""

import json
import subprocess
import sys
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import manifold
from baselines.sp import similarity_loss
from manifold import relations
from manifold.losses import decoupled_manifold_loss, full_manifold_loss
from manifold.ranks import ALONE

GOLDEN = json.loads(
    (Path(__file__).parent / "golden/manifold_loss.json").read_text(encoding="utf-8")
)
TERMS = {
    "intra": lambda student, teacher, rows: decoupled_manifold_loss(student, teacher, rows)[0],
    "inter": lambda student, teacher, rows: decoupled_manifold_loss(student, teacher, rows)[1],
    "random": lambda student, teacher, rows: decoupled_manifold_loss(student, teacher, rows)[2],
    "full": lambda student, teacher, rows: full_manifold_loss(student, teacher),
}
LOSSES = {**TERMS, "sp": lambda student, teacher, rows: similarity_loss(student, teacher)}


def tokens(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def rotation(size, seed=0):
    return torch.linalg.qr(tokens(size, size, seed=seed)).Q


def every(loss, student, teacher):
    """The loss with every token of the batch in the random term."""
    return LOSSES[loss](student, teacher, torch.arange(student.shape[0] * student.shape[1]))


def pairwise(student, teacher):
    """The full loss by its definition: every entry of both (B·N)² maps."""
    student, teacher = (features.double().flatten(0, 1) for features in (student, teacher))
    student = student / student.norm(dim=1, keepdim=True)
    teacher = teacher / teacher.norm(dim=1, keepdim=True)
    return (student @ student.T - teacher @ teacher.T).pow(2).mean()


def value_and_gradient(loss, student, teacher):
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    return value.item(), student.grad


# ---- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"seed-{golden['seed']}")
def test_losses_and_gradient_have_the_golden_values(golden, dtype, tolerance):
    """Terms, total and gradient are those of Hao840/manifold-distillation at 1096b82.

    That is ``layer_mf_loss`` of its losses.py in float64, with the rows given; it has no full loss,
    whose values are the mean over all pairs of tokens.
    """
    rng = np.random.default_rng(golden["seed"])
    student, teacher = (
        torch.tensor(rng.standard_normal((golden["B"], golden["N"], channels)), dtype=dtype)
        for channels in (golden["D_student"], golden["D_teacher"])
    )
    student.requires_grad_()
    rows = torch.tensor(golden["indices"])
    intra, inter, random = decoupled_manifold_loss(student, teacher, rows)
    total = 4 * intra + 0.1 * inter + 0.2 * random
    total.backward()
    full = full_manifold_loss(student, teacher)
    found = {
        "intra": intra.item(),
        "inter": inter.item(),
        "random": random.item(),
        "weighted_total": total.item(),
        "grad_l2": student.grad.norm().item(),
        "full": full.item(),
    }
    assert len(rows) == golden["K"]
    assert total.dtype == full.dtype == dtype
    assert found == pytest.approx({key: golden[key] for key in found}, rel=tolerance)
    assert student.grad.flatten()[:4].tolist() == pytest.approx(golden["grad_first"], rel=tolerance)


@pytest.mark.parametrize(
    ("images", "positions", "own", "other"),
    [(1, 1, 3, 3), (1, 7, 4, 9), (5, 1, 2, 3), (3, 4, 40, 2), (4, 9, 8, 12)],
)
def test_full_loss_is_the_mean_over_all_pairs(images, positions, own, other):
    student = tokens(images, positions, own)
    teacher = tokens(images, positions, other, seed=1)
    expected = pairwise(student, teacher).item()
    found = full_manifold_loss(student, teacher).item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("own", "other"), [(128, 129), (129, 128), (192, 384), (100, 193)], ids=lambda d: f"{d} wide"
)
def test_full_loss_of_wide_tokens_leaves_half_of_the_symmetric_products_out(own, other):
    student, teacher = tokens(3, 5, own), tokens(3, 5, other, seed=1)
    expected, expected_gradient = value_and_gradient(pairwise, student, teacher)
    value, gradient = value_and_gradient(full_manifold_loss, student, teacher)
    assert value == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-15)
    for tokens_of_one in (student, teacher):
        width = tokens_of_one.shape[-1]
        half = torch.zeros(width, width, dtype=torch.float64)
        relations._add_own_gram(half, torch.ones(1, width, dtype=torch.float64))
        assert (half > 0).all().item() is (width < relations.WIDE)


# ---- accuracy where the norms cancel ---------------------------------------------------------


def nearly_equal_tokens(size, rotated):
    """Float32 tokens around one common direction whose float64 loss is about ``size``."""
    student = 4 * tokens(1, 1, 16) + tokens(4, 16, 16, seed=1)
    noise = tokens(4, 16, 16, seed=2)
    step = 1e-3
    for _ in range(5):  # the loss grows with the square of a small step
        step *= sqrt(size / pairwise(student, student + step * noise).item())
    turn = rotation(16) if rotated else torch.eye(16, dtype=torch.float64)
    teacher = (student + step * noise) @ turn
    return student.float(), teacher.float()


@pytest.mark.parametrize("rotated", [False, True], ids=["same basis", "rotated teacher"])
@pytest.mark.parametrize("size", [1e-4, 1e-6, 1e-8])
def test_full_loss_of_nearly_equal_float32_features_is_accurate(size, rotated):
    student, teacher = nearly_equal_tokens(size, rotated)
    expected, expected_gradient = value_and_gradient(pairwise, student.double(), teacher)
    value, gradient = value_and_gradient(full_manifold_loss, student, teacher)
    assert expected == pytest.approx(size, rel=0.5)
    assert value == pytest.approx(expected, rel=1e-3)
    assert (gradient - expected_gradient).norm() < 1e-2 * expected_gradient.norm()


@pytest.mark.parametrize("rotated", [False, True], ids=["same basis", "rotated teacher"])
def test_plain_float32_gram_matrices_would_lose_the_value(rotated):
    student, teacher = nearly_equal_tokens(1e-8, rotated)
    s, t = (torch.nn.functional.normalize(x.flatten(0, 1), dim=1) for x in (student, teacher))
    gram = (s.T @ s).square().sum() - 2 * (t.T @ s).square().sum() + (t.T @ t).square().sum()
    expected = pairwise(student, teacher).item()
    assert abs(gram.item() / len(s) ** 2 - expected) > 1e-3 * expected


class Precisions(TorchDispatchMode):
    """Collects the precisions of all matrix products."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm):
            self.found.add(result.dtype)
        return result


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 512, 2048, 2500], ids=lambda rows: f"{rows} rows")
def test_full_loss_of_unlike_float32_features_is_accurate_without_float64(rows):
    student, teacher = tokens(rows, 1, 8).float() + 1, tokens(rows, 1, 12, seed=1).float() + 1
    with Precisions() as precisions:
        value, gradient = value_and_gradient(full_manifold_loss, student, teacher)
    expected, expected_gradient = value_and_gradient(pairwise, student.double(), teacher)
    assert precisions.found == {torch.float32}
    assert value == pytest.approx(expected, rel=1e-5)
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def test_full_loss_turns_to_float64_before_float32_loses_a_hundredth_of_it():
    losses = {}
    for size in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        student, teacher = nearly_equal_tokens(size, rotated=True)
        with Precisions() as precisions:
            value = full_manifold_loss(student, teacher).item()
        assert value == pytest.approx(pairwise(student, teacher).item(), rel=1e-3)
        losses[size] = torch.float64 in precisions.found
    assert losses[1e-1] is False
    assert losses[1e-4] is losses[1e-5] is True
    assert sorted(losses.values()) == [losses[size] for size in sorted(losses, reverse=True)]


@pytest.mark.parametrize("seed", range(3))
def test_bound_on_the_error_of_float32_products_holds(seed):
    student, teacher = (tokens(3000, d, seed=seed).float() + 1 for d in (24, 40))
    found, exact = (
        relations.Grams(*pair, ALONE).value()
        for pair in ((student, teacher), (student.double(), teacher.double()))
    )
    grams = relations.Grams(student, teacher, ALONE)
    assert 0 < abs(found - exact) < grams.error_bound()
    assert grams.error_bound() < 1e-3


@pytest.mark.parametrize("entries", [1, 2 * 7**2, 10**6])
def test_decoupled_loss_is_the_same_in_blocks_of_any_size(monkeypatch, entries):
    student, teacher, rows = tokens(5, 7, 3), tokens(5, 7, 4, seed=1), torch.tensor([3, 9, 3])
    terms = (lambda *pair: sum(decoupled_manifold_loss(*pair, rows)), student, teacher)
    expected, expected_gradient = value_and_gradient(*terms)
    monkeypatch.setattr(relations, "MAP_ENTRIES", entries)
    value, gradient = value_and_gradient(*terms)
    assert value == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", TERMS)
def test_gradient_by_the_teacher_is_none(loss):
    student, teacher = tokens(2, 4, 3).requires_grad_(), tokens(2, 4, 5, seed=1).requires_grad_()
    every(loss, student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("loss", TERMS)
def test_torch_compile_takes_the_loss_whole(loss):
    torch.compiler.reset()
    student, teacher = tokens(4, 6, 3).float().requires_grad_(), tokens(4, 6, 5, seed=1).float()
    rows = torch.tensor([1, 0, 1, 6])
    compiled = torch.compile(LOSSES[loss], backend="aot_eager", fullgraph=True)
    found, expected = (form(student, teacher, rows) for form in (compiled, LOSSES[loss]))
    (gradient,), (expected_gradient,) = (
        torch.autograd.grad(value, student) for value in (found, expected)
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient)


# ---- memory ----------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Records the number of entries of the largest tensor that an operation returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.entries = max(self.entries, *sizes, 0)
        return result


def largest_tensor(loss, images, positions):
    student = tokens(images, positions, 4).requires_grad_()
    teacher = tokens(images, positions, 6, seed=1)
    with LargestTensor() as largest:
        loss(student, teacher).backward()
    return largest.entries


def test_full_loss_forms_nothing_of_the_size_of_the_relation_map():
    assert largest_tensor(full_manifold_loss, 64, 64) < 4096**2 / 10


def test_the_pairwise_loss_does_form_the_relation_map():
    assert largest_tensor(pairwise, 8, 8) == 64**2


# ---- gradients and invariances ---------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_that_of_the_value(loss):
    rows = torch.tensor([4, 0, 7])
    student, teacher = tokens(2, 4, 3).requires_grad_(), tokens(2, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda features: LOSSES[loss](features, teacher, rows), student)


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_ignores_an_orthogonal_map_of_the_channels(loss, side):
    pair = {"student": tokens(3, 4, 5), "teacher": tokens(3, 4, 7, seed=1)}
    mapped = {**pair, side: pair[side] @ rotation(pair[side].shape[-1])}
    assert every(loss, **mapped).item() == pytest.approx(every(loss, **pair).item(), rel=1e-12)


@pytest.mark.parametrize("loss", TERMS)
def test_loss_ignores_the_length_of_each_token(loss):
    student, teacher = tokens(3, 4, 5), tokens(3, 4, 7, seed=1)
    expected = every(loss, student, teacher).item()
    scaled = every(
        loss, student * tokens(3, 4, 1, seed=2).exp(), teacher * tokens(3, 4, 1, seed=3).exp()
    )
    assert scaled.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", ["intra", "inter", "full", "sp"])
def test_loss_ignores_the_order_of_the_images(loss):
    student, teacher = tokens(4, 3, 5), tokens(4, 3, 7, seed=1)
    order = torch.tensor([2, 0, 3, 1])
    found = every(loss, student[order], teacher[order]).item()
    assert found == pytest.approx(every(loss, student, teacher).item(), rel=1e-12)
    assert every(loss, student[order], teacher).item() != pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("channels", [5, 8])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_vanishes_for_an_orthogonal_image_of_the_student(loss, channels):
    student = tokens(3, 4, 5)
    padded = torch.nn.functional.pad(student, (0, channels - 5))
    teacher = padded @ rotation(channels)
    assert every(loss, student, teacher).item() == pytest.approx(0, abs=1e-15)
    assert every(loss, student, teacher.flip(0)).item() > 1e-3


# ---- precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_float32_whatever_the_features_and_autocast(loss, dtype, autocast):
    student, teacher = tokens(3, 4, 5, dtype=dtype), tokens(3, 4, 7, seed=1, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = every(loss, student, teacher)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert value.item() == every(loss, student.float(), teacher.float()).item()


@pytest.mark.parametrize(
    ("loss", "pairs"), [("intra", 2 / 3), ("inter", 1 / 2), ("random", 5 / 6), ("full", 5 / 6)]
)
def test_a_small_difference_of_half_precision_features_does_not_underflow(loss, pairs):
    # Orthogonal tokens against tokens with similarity 1e-4, whose square is 0 in float16.
    basis = torch.eye(6)
    student = (basis + 1e-4 * torch.ones(6, 6).triu(1)).half().reshape(2, 3, 6)
    teacher = basis.half().reshape(2, 3, 6)
    assert torch.tensor(1e-4).half().square() == 0
    assert every(loss, student, teacher).item() == pytest.approx(pairs * 1e-8, rel=1e-2)


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param((4, 8), (2, 4, 8), id="2-D student"),
        pytest.param((2, 4, 8), (4, 8), id="2-D teacher"),
        pytest.param((2, 4, 4, 8), (2, 4, 4, 8), id="4-D"),
        pytest.param((2, 4, 8), (3, 4, 8), id="batch"),
        pytest.param((2, 4, 8), (2, 5, 8), id="positions"),
        pytest.param((1, 4, 8), (2, 4, 8), id="batch that would broadcast"),
        pytest.param((0, 4, 8), (0, 4, 8), id="no images"),
        pytest.param((2, 0, 8), (2, 0, 8), id="no tokens"),
        pytest.param((2, 4, 0), (2, 4, 8), id="no channels"),
    ],
)
@pytest.mark.parametrize("loss", TERMS)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(loss, student, teacher):
    with pytest.raises(ValueError) as error:
        TERMS[loss](torch.ones(student), torch.ones(teacher), torch.tensor([0]))
    assert f"student {student}" in str(error.value)
    assert f"teacher {teacher}" in str(error.value)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        pytest.param(torch.tensor([0, -1]), ["[0, 8)", "-1"], id="negative"),
        pytest.param(torch.tensor([0, 8]), ["[0, 8)", "to 8"], id="too large"),
        pytest.param(torch.tensor([0.0, 1.0]), ["integers", "float32"], id="float"),
        pytest.param(torch.tensor([0j, 1j]), ["integers", "complex64"], id="complex"),
        pytest.param(torch.tensor([True] * 8), ["integers", "bool"], id="mask"),
        pytest.param(torch.tensor([[0, 1]]), ["vector", "(1, 2)"], id="2-D"),
        pytest.param(torch.tensor(3), ["vector", "()"], id="scalar"),
        pytest.param(torch.tensor([], dtype=torch.long), ["at least one", "none"], id="empty"),
    ],
)
def test_indices_that_name_no_rows_are_refused(indices, words):
    with pytest.raises(ValueError) as error:
        decoupled_manifold_loss(torch.ones(2, 4, 3), torch.ones(2, 4, 5), indices)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str
)
def test_indices_of_any_integer_type_name_the_same_rows(dtype):
    student, teacher = tokens(2, 4, 3), tokens(2, 4, 5, seed=1)
    rows = torch.tensor([1, 0, 1, 6, 2, 0, 5, 1])
    expected = decoupled_manifold_loss(student, teacher, rows)
    assert decoupled_manifold_loss(student, teacher, rows.to(dtype)) == expected


def test_sp_refuses_two_batches_with_both_shapes():
    with pytest.raises(ValueError) as error:
        similarity_loss(torch.ones(2, 4, 8), torch.ones(3, 4, 8))
    assert "student (2, 4, 8), teacher (3, 4, 8)" in str(error.value)


# ---- public API ------------------------------------------------------------------------------


def test_package_offers_its_public_names():
    assert manifold.decoupled_manifold_loss is decoupled_manifold_loss
    assert manifold.full_manifold_loss is full_manifold_loss
    assert manifold.Distiller.__module__ == "manifold.distiller"
    assert manifold.Cohort.__module__ == "manifold.training.cohort"
    with pytest.raises(AttributeError, match="'Distillr'"):
        _ = manifold.Distillr


def test_reading_the_configuration_does_not_import_torch():
    code = "import sys, manifold.settings; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8"
    )
    assert (result.returncode, result.stdout.strip()) == (0, "False"), result.stderr
