"""[CLS]-KD: class tokens and where they point, layer pairs weighted by their discrepancy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.losses import at_least_float32, check_same_shape
from manifold.settings.section import NotNegative
from manifold.tokens import has_class_tokens

SMALLEST = 1e-30  # a sum of discrepancies that is zero divides as this


class ClassTokenKD(Distiller):
    """Soft KD + class_tokens · L_class + maps · L_maps.

    =======  ===========================================================  =======
    term     squared differences of a layer pair, whose mean is l_i       divisor
    =======  ===========================================================  =======
    L_class  P(c_S/‖c_S‖) − c_T/‖c_T‖                                     B · D_t
    L_maps   cos(c_S, F_S) − cos(c_T, F_T), class token and each patch    B · N
    =======  ===========================================================  =======

    Both terms are Σ ω_i·l_i² / Σ l_i over the layer pairs: a pair counts by its share of the
    discrepancy, and the gradient passes through the share. ω is ``last`` for the map's last pair
    and 1 for the others. P is one projector for all pairs: linear D_s → (D_s + D_t)/2, GELU, linear
    to D_t. Tokens are as they leave the blocks.

    The command of the authors' README adds the manifold terms of ``manifold``, the class token
    among the tokens; here are the method's own.

    Raises:
        UserError: the blocks of a network carry no class token, as those of CaiT's trunk, for which
            the authors' code has no form either; or its tokens are merged.

    Source: Kang et al. 2024, doi 10.1016/j.knosys.2024.112531; terms, weights 1 and 2 and
    ``last`` 4 as in kmc3661/CLS-KD (``losses.py``).
    """

    uses_layers = True
    published_base = "soft_kd"

    def __init__(
        self,
        student,
        teacher,
        *,
        class_tokens: NotNegative,
        maps: NotNegative,
        last: NotNegative,
        **common,
    ):
        for model in (student, teacher.model):
            if not has_class_tokens(model):
                raise UserError(
                    f"needs a class token in every block, and {type(model).__name__} has none "
                    "there: take timm's VisionTransformer with a class token, or DeiT, for "
                    "student and teacher"
                )
        super().__init__(student, teacher, **common)
        widths = [
            _width(student, self.student_layouts),
            _width(teacher.model, self.teacher_layouts),
        ]
        self.weights = {"class_tokens": class_tokens, "maps": maps}
        self.last = last
        self.auxiliary["projector"] = nn.Sequential(
            nn.Linear(widths[0], sum(widths) // 2),
            nn.GELU(),
            nn.Linear(sum(widths) // 2, widths[1]),
        )

    def terms(self, student, teacher, targets):
        class_losses, map_losses = [], []
        pairs = zip(self.layers.student, self.layers.teacher, strict=True)
        for (own, other), (mine, its) in zip(
            self.token_pairs(student, teacher), pairs, strict=True
        ):
            class_own, class_other = student.class_tokens[mine], teacher.class_tokens[its]
            projected = self.auxiliary["projector"](_unit(class_own))
            class_losses.append(class_token_loss(projected, class_other))
            map_losses.append(class_map_loss((class_own, own), (class_other, other)))
        return {
            **self.base_terms(student, teacher, targets),
            "class_tokens": self.weights["class_tokens"] * by_discrepancy(class_losses, self.last),
            "maps": self.weights["maps"] * by_discrepancy(map_losses, self.last),
        }


def class_token_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Squared differences of P(c_S/‖c_S‖) and c_T/‖c_T‖, (B, D_t) each, a mean over B · D_t.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(projected, teacher)
    with torch.autocast(projected.device.type, enabled=False):
        return F.mse_loss(at_least_float32(projected), _unit(teacher))


def class_map_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Squared differences of the class token's cosines with the patches, a mean over B · N.

    Args:
        student, teacher: class token (B, D) and patch tokens (B, N, D) of each.

    Raises:
        ValueError: the maps' shapes differ.
    """
    with torch.autocast(student[0].device.type, enabled=False):
        own, other = (
            (_unit(tokens) @ _unit(class_token).unsqueeze(-1)).squeeze(-1)
            for class_token, tokens in (student, teacher)
        )
        check_same_shape(own, other)
        return F.mse_loss(own, other)


def by_discrepancy(losses: list[Tensor], last: float) -> Tensor:
    """Σ ω_i·l_i² / Σ l_i of the layer pairs' losses; ω is ``last`` for the last, or else 1."""
    stacked = torch.stack(losses)
    weights = torch.ones_like(stacked)
    weights[-1] = last
    return (weights * stacked.square()).sum() / stacked.sum().clamp(min=SMALLEST)


def _unit(vectors: Tensor) -> Tensor:
    """The directions of vectors (…, D), in float32 at least."""
    with torch.autocast(vectors.device.type, enabled=False):
        return F.normalize(at_least_float32(vectors), dim=-1)


def _width(model: nn.Module, layouts: dict) -> int:
    """The channels of a network's tokens, the same after every block that is compared."""
    widths = {layout.channels for layout in layouts.values()}
    own = {model.feature_info[block]["num_chs"] for block in layouts}
    if widths != own or len(widths) != 1:
        raise UserError(
            f"needs tokens of one width, not merged: those of {type(model).__name__} have "
            f"{sorted(widths)} channels, its blocks {sorted(own)}; raise most_tokens or choose "
            "another layer map"
        )
    return widths.pop()
