"""The forms of the paper's losses that are compared, each for one pair of layers.

The decoupled and the pairwise form are written as the paper's section 3 states them, with nothing
done for speed; they stand here alone, to be measured against.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.losses import decoupled_manifold_loss, full_manifold_loss

WEIGHTS = (4.0, 0.1, 0.2)  # of the decoupled terms: the paper's, which change no time


def pairwise(student: Tensor, teacher: Tensor, rows: Tensor) -> Tensor:
    """The full loss over all (B·N)² pairs of tokens, both maps formed."""
    del rows
    return _difference(_unit(student).flatten(0, 1), _unit(teacher).flatten(0, 1))


def full(student: Tensor, teacher: Tensor, rows: Tensor) -> Tensor:
    """The full loss as the suite computes it."""
    del rows
    return full_manifold_loss(student, teacher)


def reference(student: Tensor, teacher: Tensor, rows: Tensor) -> Tensor:
    """The decoupled loss, term by term as the paper states it."""
    student, teacher = _unit(student), _unit(teacher)
    terms = (
        _difference(student, teacher),
        _difference(student.transpose(0, 1), teacher.transpose(0, 1)),
        _difference(student.flatten(0, 1)[rows], teacher.flatten(0, 1)[rows]),
    )
    return _total(terms)


def decoupled(student: Tensor, teacher: Tensor, rows: Tensor) -> Tensor:
    """The decoupled loss as the suite computes it."""
    return _total(decoupled_manifold_loss(student, teacher, rows))


FORMS = {
    "pairwise": pairwise,
    "full": full,
    "reference": reference,
    "decoupled": decoupled,
}


def _unit(tokens: Tensor) -> Tensor:
    return F.normalize(tokens, dim=-1)


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    return (student @ student.mT - teacher @ teacher.mT).square().mean()


def _total(terms: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([w * term for w, term in zip(WEIGHTS, terms, strict=True)]).sum()
