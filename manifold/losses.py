"""The manifold losses of Hao et al. (NeurIPS 2022, arXiv 2107.01378).

Notation: F_S (B, N, D_s) and F_T (B, N, D_t) are the patch tokens of one layer pair, each token
L2-normalised over its channels, and M(X) = X Xᵀ is the manifold relation map: the cosine
similarity of each two tokens. Every loss below is the *mean* of the squared differences of two
maps, the form of the reference code (Hao840/manifold-distillation, ``losses.py``), which divides
the squared Frobenius norms of the paper's equations by the number of their entries.

The gradient flows to the student alone. Relations are computed in float32 at least and outside
autocast: in float16 a squared difference below 2.4e-4 of the similarities underflows to zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.ranks import ALONE, Ranks
from manifold.relations import Decoupled, Full


def decoupled_manifold_loss(
    student: Tensor, teacher: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the unweighted intra-image, inter-image and random manifold losses.

    ========  =====================================================  ==================
    term      maps that are compared                                 divisor of the mean
    ========  =====================================================  ==================
    intra     M(F[i]) of each image i, (N, N)                        B · N · N
    inter     M(F[:, j]) of each position j, (B, B)                  N · B · B
    random    M(F[rows]) of K rows of the flattened (B·N) tokens     K · K
    ========  =====================================================  ==================

    Args:
        student: tokens (B, N, D_s); the gradient flows to them.
        teacher: tokens (B, N, D_t) of the same images and positions.
        indices: (K,) integer rows of the flattened (B·N) order, the same rows for both nets.

    Returns:
        Three scalars ``(intra, inter, random)``.

    Raises:
        ValueError: the shapes do not fit each other, or an index is out of range.

    Source: paper, section 3 (the three terms of the decoupled loss); means as in the reference
    code's ``layer_mf_loss``.
    """
    _check_tokens(student, teacher)
    _check_indices(indices, rows=student.shape[0] * student.shape[1])
    with torch.autocast(student.device.type, enabled=False):
        return Decoupled.apply(
            at_least_float32(student),
            at_least_float32(teacher),
            indices.to(student.device, torch.long),
        )


def full_manifold_loss(student: Tensor, teacher: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Return the full (coupled) manifold loss: the mean over all (B·N)² entries, exactly.

    With S (B·N, D_s) and T (B·N, D_t) the normalised tokens,

        ‖S Sᵀ − T Tᵀ‖²_F = ‖Sᵀ S‖²_F − 2 ‖Tᵀ S‖²_F + ‖Tᵀ T‖²_F,

    so D×D Gram matrices are all that is ever formed: O(B·N·D²) time, and no memory that grows
    with (B·N)². The three norms nearly cancel when the maps agree: what float32 products may have
    lost is bounded, and where it may matter all is computed in float64 (``relations.Full``).

    Args:
        student: tokens (B, N, D_s); the gradient flows to them.
        teacher: tokens (B, N, D_t) of the same images and positions.
        ranks: the processes over whose batches together, of size B each, the loss is taken; only
            D×D sums are sent.

    Returns:
        A scalar, in float32 (float64 for float64 features); the same on every rank.

    Raises:
        ValueError: the shapes do not fit each other.

    Source: paper, section 3, the coupled loss that it calls too costly; the identity is that of
    the trace of a product of Gram matrices.
    """
    _check_tokens(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        tokens = (at_least_float32(each).flatten(0, 1) for each in (student, teacher))
        return Full.apply(*tokens, ranks)


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of logits (B, C) at a temperature: summed over C, a mean over B.

    Raises:
        ValueError: the shapes differ; names both.
    """
    check_same_shape(student, teacher)
    logits = (at_least_float32(each) for each in (student, teacher))
    with torch.autocast(student.device.type, enabled=False):
        own, other = (F.log_softmax(each / temperature, dim=-1) for each in logits)
        return F.kl_div(own, other, reduction="batchmean", log_target=True)


def at_least_float32(features: Tensor) -> Tensor:
    """Return float64 features as they are, and all others in float32."""
    return features if features.dtype == torch.float64 else features.float()


def check_same_batch(student: Tensor, teacher: Tensor) -> None:
    """Refuse features of two different batches.

    Raises:
        ValueError: axis 0 differs; names both shapes.
    """
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            "student and teacher differ in axis 0 (batch B): "
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        )


def check_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Refuse features or logits that would have to be broadcast to be compared, and empty ones.

    Raises:
        ValueError: the shapes differ, or there are no entries; names both shapes.
    """
    if student.shape != teacher.shape or 0 in student.shape:
        raise ValueError(
            "student and teacher must have one shape and must not be empty: "
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        )


def check_targets(targets: Tensor, logits: Tensor) -> None:
    """Refuse targets that are neither (B, classes) nor (B,) for logits (B, classes).

    Raises:
        ValueError: names both shapes.
    """
    if tuple(targets.shape) not in (tuple(logits.shape), tuple(logits.shape[:1])):
        raise ValueError(
            "targets must be (B, classes) or (B,) for the logits (B, classes), "
            f"got targets {tuple(targets.shape)}, logits {tuple(logits.shape)}"
        )


def _check_tokens(student: Tensor, teacher: Tensor) -> None:
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != 3 or teacher.ndim != 3:
        raise ValueError(f"tokens must be (B, N, D), got {shapes}")
    for axis, name in enumerate(("batch B", "tokens N")):
        if student.shape[axis] != teacher.shape[axis]:
            raise ValueError(
                f"student and teacher differ in axis {axis} ({name}): {shapes}; "
                "relation maps compare the same images at the same positions"
            )
    if 0 in student.shape or 0 in teacher.shape:
        raise ValueError(f"tokens must not be empty, got {shapes}")


def _check_indices(indices: Tensor, rows: int) -> None:
    is_integer = not (
        indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool
    )
    if indices.ndim != 1 or not is_integer:
        raise ValueError(
            f"indices must be a vector of integers (K,), got {tuple(indices.shape)} "
            f"of {indices.dtype}"
        )
    if indices.numel() == 0:
        raise ValueError("indices must name at least one token, got none")
    if torch.compiler.is_compiling():
        return  # no value is looked at; torch refuses an index that is too large
    lowest, highest = int(indices.min()), int(indices.max())
    if lowest < 0 or highest >= rows:
        raise ValueError(
            f"indices must lie in [0, B·N) = [0, {rows}), got values from {lowest} to {highest}"
        )
