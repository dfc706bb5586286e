"""Relational knowledge distillation (RKD)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.distiller import Distiller
from manifold.losses import at_least_float32
from manifold.settings.section import NotNegative


class RelationalKD(Distiller):
    """CE(student, targets) + mean over layer pairs of (distance · L_D + angle · L_A).

    The relations are those of one vector an image: the mean of its patch tokens, which is to a ViT
    what the globally pooled feature of the published code is to a CNN (flattened tokens would make
    two images' distance depend on where things are).

    L_A holds B³ cosines of each net and as many differences: 1 MiB each for 64 images in float32,
    64 MiB for 256. A relational batch of 2048 images would need 32 GiB for each.

    Source: Park et al. 2019, arXiv 1904.05068 (RKD-D and RKD-A); weights 25 and 50, last feature
    and labels as in HobbitLong/RepDistiller (``rkd``: γ = 1, α = 0, β = 1).
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(self, *networks, distance: NotNegative, angle: NotNegative, **common):
        super().__init__(*networks, **common)
        self.weights = {"distance": distance, "angle": angle}

    def terms(self, student, teacher, targets):
        losses = [
            torch.stack(
                relational_losses(*(at_least_float32(tokens).mean(dim=1) for tokens in pair))
            )
            for pair in self.token_pairs(student, teacher)
        ]
        means = dict(zip(self.weights, torch.stack(losses).mean(dim=0), strict=True))
        return {
            **self.base_terms(student, teacher, targets),
            **{name: weight * means[name] for name, weight in self.weights.items()},
        }


def relational_losses(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unweighted distance and angle losses; δ is the Huber loss with threshold 1.

    =========  ==========================================================  ===================
    term       what δ compares                                             divisor of the mean
    =========  ==========================================================  ===================
    distance   ‖x_i − x_j‖ / μ, μ the mean of all that are above zero      B · B
    angle      cos of the angle at x_i between x_j − x_i and x_k − x_i     B · B · B
    =========  ==========================================================  ===================

    Pairs of an image with itself count in the divisors, with distance and cosine zero.

    Args:
        student: one vector an image, (B, D_s).
        teacher: (B, D_t) of the same images.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            "relations are between the vectors (B, D) of the same images: "
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        )
    with torch.autocast(student.device.type, enabled=False):
        own, other = (_differences(at_least_float32(vectors)) for vectors in (student, teacher))
        return (
            F.smooth_l1_loss(_relative_lengths(own), _relative_lengths(other)),
            F.smooth_l1_loss(_cosines(own), _cosines(other)),
        )


def _differences(vectors: Tensor) -> Tensor:
    """(B, B, D): the difference to each other vector, from each vector. Exact where a Gram matrix
    cancels."""
    return vectors.unsqueeze(0) - vectors.unsqueeze(1)


def _relative_lengths(differences: Tensor) -> Tensor:
    lengths = differences.norm(dim=-1)
    mean = lengths.sum() / (lengths > 0).sum().clamp(min=1)
    return lengths / mean.clamp(min=torch.finfo(lengths.dtype).tiny)


def _cosines(differences: Tensor) -> Tensor:
    directions = F.normalize(differences, dim=-1)
    return directions @ directions.mT
