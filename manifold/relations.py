"""The manifold losses' sums over relation maps, with their gradients written by hand.

Autograd would keep both maps and multiply twice for each symmetric one. Here a difference of two
maps is formed once, in blocks that stay in the cache, and is multiplied by the student's tokens
while it is there; what is kept is of the size of the tokens. The teacher's side has no gradient.

With y the tokens at unit length and E = Y Yᵀ − Z Zᵀ symmetric, d‖E‖²_F / dY = 4 E Y.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from manifold.ranks import Ranks

SHORTEST = 1e-12  # a token that is shorter is divided by this, as in torch's normalize
MAP_ENTRIES = 2**17  # of the maps that are formed at once: half a megabyte of float32
# Rows whose products are summed in float32, and how many such sums are formed at once.
ROWS, SUMS = 512, 4
# Channels from which on one half of a symmetric product is left out, and those of its strips.
WIDE, STRIP = 129, 96
UNLIKELY = 6.0  # standard deviations that a sum of rounding errors stays within
TOLERANCE = 0.01  # of the full loss's value, for the bound on its error in float32


def at_unit_length(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (..., D) over their lengths, and the inverse lengths (..., 1)."""
    length = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    inverse = length.clamp_(min=SHORTEST).reciprocal_()
    return tokens * inverse, inverse


def before_unit_length(gradient: Tensor, tokens: Tensor, inverse: Tensor) -> Tensor:
    """The gradient by tokens, of that by the same ``tokens`` at unit length."""
    along = (gradient * tokens).sum(dim=-1, keepdim=True)
    return torch.addcmul(gradient, tokens, along, value=-1).mul_(inverse)


class Decoupled(Function):
    """(student (B, N, D_s), teacher (B, N, D_t), rows (K,)) → the means of the three terms."""

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        student, inverse = at_unit_length(student)
        teacher, _ = at_unit_length(teacher)
        differentiate = ctx.needs_input_grad[0]
        intra = mean_difference(student, teacher, differentiate)
        inter = mean_difference(student.transpose(0, 1), teacher.transpose(0, 1), differentiate)
        drawn = (each.flatten(0, 1).index_select(0, rows)[None] for each in (student, teacher))
        random = mean_difference(*drawn, differentiate)
        if differentiate:
            ctx.save_for_backward(student, inverse, rows, intra[1], inter[1], random[1])
        return intra[0], inter[0], random[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, *upstream: Tensor) -> tuple[Tensor, None, None]:
        student, inverse, rows, intra, inter, random = ctx.saved_tensors
        gradient = intra * upstream[0]
        gradient.transpose(0, 1).addcmul_(inter, upstream[1])
        gradient.flatten(0, 1).index_add_(0, rows, random[0] * upstream[2])
        return before_unit_length(gradient, student, inverse), None, None


def mean_difference(
    student: Tensor, teacher: Tensor, differentiate: bool
) -> tuple[Tensor, Tensor | None]:
    """Mean square of M(student) − M(teacher) over maps, and its gradient by ``student``.

    Args:
        student: (maps, rows, D_s) tokens of unit length.
        teacher: (maps, rows, D_t), as many.
    """
    maps, rows, _ = student.shape
    entries = maps * rows**2
    total = student.new_zeros(())
    gradient = torch.empty_like(student) if differentiate else None
    together = max(1, MAP_ENTRIES // rows**2)
    for first in range(0, maps, together):
        own, other = (each[first : first + together] for each in (student, teacher))
        difference = torch.bmm(other, other.mT).baddbmm_(own, own.mT, beta=-1)
        total = total + torch.dot(difference.view(-1), difference.view(-1))
        if gradient is not None:
            pull = torch.baddbmm(own, difference, own, beta=0, alpha=4 / entries)
            gradient[first : first + together] = pull
    return total / entries, gradient


class Full(Function):
    """(student (rows, D_s), teacher (rows, D_t), ranks) → the mean over all pairs of rows.

    With S and T the tokens at unit length, it is (‖SᵀS‖² − 2 ‖TᵀS‖² + ‖TᵀT‖²) / rows², and its
    gradient by S is 4 (S SᵀS − T TᵀS) / rows². Products of float32 tokens are float32, summed in
    float64 over every ``ROWS`` rows, unless their error may be more than ``TOLERANCE`` of the
    value: then all is computed anew in float64. A compiled loss is in float64 at once, for it has
    no branch that depends on a value.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, ranks: Ranks) -> Tensor:
        dtype = student.dtype
        if torch.compiler.is_compiling():
            student, teacher = student.double(), teacher.double()
        grams = Grams(student, teacher, ranks)
        if student.dtype != torch.float64 and grams.error_bound() > TOLERANCE * grams.value():
            student, teacher = student.double(), teacher.double()
            grams = Grams(student, teacher, ranks)
        if ctx.needs_input_grad[0]:
            gradient = grams.gradient(student, teacher).mul_(ranks.count)
            ctx.save_for_backward(gradient.to(dtype))
        return grams.value().to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


class Grams:
    """SᵀS, TᵀS and TᵀT of the tokens of all ranks at unit length, in float64."""

    def __init__(self, student: Tensor, teacher: Tensor, ranks: Ranks):
        self.rows = ranks.count * len(student)
        own, other = student.shape[1], teacher.shape[1]
        self.student, self.cross, self.teacher = (
            student.new_zeros(shape, dtype=torch.float64)
            for shape in ((own, own), (other, own), (other, other))
        )
        for part in zip(*(each.split(ROWS * SUMS) for each in (student, teacher)), strict=True):
            (own, _), (other, _) = map(at_unit_length, part)
            _add_own_gram(self.student, own)
            self.cross += _gram(other, own)
            _add_own_gram(self.teacher, other)
        self.student, self.teacher = map(_whole, (self.student, self.teacher))
        self.student, self.cross, self.teacher = map(
            ranks.sum, (self.student, self.cross, self.teacher)
        )

    def value(self) -> Tensor:
        squares = [gram.square().sum() for gram in (self.student, self.cross, self.teacher)]
        return (squares[0] - 2 * squares[1] + squares[2]) / self.rows**2

    def error_bound(self) -> Tensor:
        """What float32 products may have moved the value by.

        An entry of AᵀB is off by at most ε |A|ᵀ|B|, so the matrix by ε·rows and its squared norm by
        2 ε·rows·‖AᵀB‖. ε is that of sums of ``ROWS`` products and of the lengths, as independent
        rounding errors add up, but for a chance of 2 exp(−``UNLIKELY``²/2).

        Source: Higham and Mary 2019, SIAM Journal on Scientific Computing 41(5), theorem 3.1.
        """
        terms = ROWS**0.5 + self.teacher.shape[0] ** 0.5
        epsilon = UNLIKELY * terms * torch.finfo(torch.float32).eps / 2
        norms = self.student.norm() + 2 * self.cross.norm() + self.teacher.norm()
        return 2 * epsilon * norms / self.rows

    def gradient(self, student: Tensor, teacher: Tensor) -> Tensor:
        """That of the value by this rank's student's tokens."""
        gradient = torch.empty_like(student)
        by_student, by_teacher = (
            (gram * (4 / self.rows**2)).to(student.dtype) for gram in (self.student, self.cross)
        )
        parts = (each.split(ROWS * SUMS) for each in (student, teacher, gradient))
        for own, other, found in zip(*parts, strict=True):
            (own, inverse), (other, _) = map(at_unit_length, (own, other))
            pull = torch.addmm(own @ by_student, other, by_teacher, alpha=-1)
            found.copy_(before_unit_length(pull, own, inverse))
        return gradient


def _add_own_gram(total: Tensor, tokens: Tensor) -> None:
    """Add tokensᵀ tokens; of wide ones what is needed on and above the diagonal."""
    width = len(total)
    strip = STRIP if width >= WIDE else width
    for first in range(0, width, strip):
        own = tokens[:, first : first + strip]
        total[first : first + strip, first:] += _gram(own, tokens[:, first:])


def _whole(gram: Tensor) -> Tensor:
    """A symmetric matrix with the half that ``_add_own_gram`` leaves out."""
    return gram.triu() + gram.triu(1).T if len(gram) >= WIDE else gram


def _gram(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right in float64, of products that are summed over ``ROWS`` rows as they are."""
    sums, rest = divmod(len(left), ROWS)
    whole = len(left) - rest
    first, second = (each[:whole].unflatten(0, (sums, ROWS)) for each in (left, right))
    summed = torch.bmm(first.mT, second).sum(dim=0, dtype=torch.float64)
    return summed + left[whole:].T @ right[whole:]
