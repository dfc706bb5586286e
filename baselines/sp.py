"""Similarity-preserving knowledge distillation (SP)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_same_batch
from manifold.settings.section import NotNegative


class SimilarityPreserving(Distiller):
    """CE(student, targets) + weight · mean over layer pairs of the SP loss.

    Source: Tung and Mori 2019, arXiv 1907.09682, equations 2 to 4, γ = 3000.
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(self, *networks, weight: NotNegative, **common):
        super().__init__(*networks, **common)
        self.weight = weight

    def terms(self, student, teacher, targets):
        losses = [similarity_loss(*pair) for pair in self.token_pairs(student, teacher)]
        return {
            **self.base_terms(student, teacher, targets),
            "similarity": self.weight * torch.stack(losses).mean(),
        }


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """‖Ĝ_T − Ĝ_S‖²_F / B²: G = Q Qᵀ of the flattened (B, N·D) features, rows L2-normalised.

    Args:
        student: tokens (B, N, D_s).
        teacher: tokens (B, N, D_t).

    Raises:
        ValueError: the batches differ.
    """
    check_same_batch(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        return (_similarity_map(teacher) - _similarity_map(student)).square().mean()


def _similarity_map(tokens: Tensor) -> Tensor:
    features = at_least_float32(tokens).flatten(1)
    return F.normalize(features @ features.T, dim=1)
