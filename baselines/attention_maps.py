"""Attention maps: where the class token looks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_same_shape
from manifold.settings.section import NotNegative


class AttentionMaps(Distiller):
    """Soft KD + weight · KL(teacher's map ‖ student's map), a mean over the batch.

    A map is the attention of the class token over the N patches: that of the last block of a ViT
    or DeiT, of the first class-attention block of a CaiT; heads averaged, and divided by its sum.

    In the manner of AttnDistill, which serves students of a self-supervised teacher, without
    labels: soft KD stands where it draws the class tokens together. It keeps the class token's
    attention to itself in the map, and joins heads of unequal numbers by a product,
    softmax(Σ_heads log a / 10); here the maps are over patches, and means over the heads.

    Source: Wang et al. 2022, arXiv 2210.00944; weight 0.1, clamping and the divisor as in
    wangkai930418/attndistill.
    """

    uses_attention = True
    published_base = "soft_kd"

    def __init__(self, *networks, weight: NotNegative, **common):
        super().__init__(*networks, **common)
        self.weight = weight

    def terms(self, student, teacher, targets):
        (own,), (other,) = student.attention.values(), teacher.attention.values()
        return {
            **self.base_terms(student, teacher, targets),
            "attention": self.weight * attention_loss(own, other),
        }


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of distributions (B, N), summed over N, a mean over B.

    Both are clamped to [1e-5, 0.996] and made distributions again, so that no logarithm diverges.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = (
            F.normalize(at_least_float32(rows).clamp(1e-5, 0.996), p=1, dim=-1)
            for rows in (student, teacher)
        )
        return F.kl_div(student.log(), teacher, reduction="batchmean")
