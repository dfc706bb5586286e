"""Attention transfer (AT), activation based."""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.distiller import Distiller
from manifold.losses import at_least_float32
from manifold.settings.section import NotNegative


class AttentionTransfer(Distiller):
    """CE(student, targets) + weight · sum over layer pairs of the attention loss.

    It is a sum and not a mean, as in the code behind the published numbers (3 groups of blocks on
    CIFAR-10, 4 on ImageNet, weight 1000 for both), so it grows with the length of the layer map.

    Source: Zagoruyko and Komodakis 2017, arXiv 1612.03928; weight (β = 1e+3, no soft KD beside it)
    and mean of squares as in szagoruyko/attention-transfer. The paper writes β/2 and norms that are
    not squared.
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(self, *networks, weight: NotNegative, **common):
        super().__init__(*networks, **common)
        self.weight = weight

    def terms(self, student, teacher, targets):
        losses = [attention_loss(*pair) for pair in self.token_pairs(student, teacher)]
        return {
            **self.base_terms(student, teacher, targets),
            "attention": self.weight * torch.stack(losses).sum(),
        }


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over B · N of (Â_S − Â_T)²: A is a token's mean square over its D channels.

    Â is A with each image's N entries L2-normalised.

    Args:
        student: tokens (B, N, D_s).
        teacher: tokens (B, N, D_t) of the same images and positions.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            "attention is compared at the same images and positions of tokens (B, N, D): "
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        )
    with torch.autocast(student.device.type, enabled=False):
        return (_attention(student) - _attention(teacher)).square().mean()


def _attention(tokens: Tensor) -> Tensor:
    return F.normalize(at_least_float32(tokens).square().mean(dim=-1), dim=-1)
