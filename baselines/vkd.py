"""VkD: an orthogonal projection onto the teacher's standardised features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_same_shape, kl_divergence
from manifold.settings.section import NotNegative
from manifold.tokens import Outputs, after_final_norm


class VkD(Distiller):
    """CE(student, targets) + kl · KL(teacher ‖ student) + projection · L_project.

    L_project is the smooth-L1 distance, a mean over B · D_t, between P z_S and (z_T − μ) / σ. The
    z are means over the patch tokens of the map's last layer pair, after the networks' final norm;
    μ and σ are the mean and the standard deviation of each image's D_t channels (the paper's
    standardisation, for discriminative tasks). P (D_t, D_s) stays orthonormal: PᵀP = I where
    D_t ≥ D_s, else PPᵀ = I. The KL divergence, at temperature 1, is a mean over the batch.

    P is the matrix exponential of a skew-symmetric matrix, as in the paper. The released code asks
    torch for its default, which for D_t ≠ D_s is a product of Householder reflections whose signs
    stand in the trained matrix: there one step of weight decay sets P to zero for good.

    In the authors' code the distillation token's head takes the KL divergence; a student with a
    class token alone takes both losses on its logits. The code projects the patch tokens' mean
    too, against a convolutional teacher's pooled map.

    Source: Miles et al. 2024, arXiv 2403.06213; weights 1 and 1, temperature 1, smooth-L1 and
    divisors as in roymiles/VkD (``engine.py``, its defaults alpha = gamma = 1).
    """

    uses_layers = True

    def __init__(self, *networks, projection: NotNegative, kl: NotNegative, **common):
        super().__init__(*networks, **common)
        self.weights = {"projection": projection, "kl": kl}
        own = self.student_layouts[self.layers.student[-1]]
        other = self.teacher_layouts[self.layers.teacher[-1]]
        self.auxiliary["projector"] = nn.utils.parametrizations.orthogonal(
            nn.Linear(own.channels, other.channels, bias=False), orthogonal_map="matrix_exp"
        )

    def terms(self, student, teacher, targets):
        own, other = pooled_tokens(self, student, teacher)
        with torch.autocast(own.device.type, enabled=False):  # orthonormal to float32's precision
            projected = self.auxiliary["projector"](own)
        divergence = kl_divergence(student.logits, teacher.logits, temperature=1.0)
        return {
            "cross_entropy": F.cross_entropy(student.logits, targets),
            "kl": self.weights["kl"] * divergence,
            "projection": self.weights["projection"] * projection_loss(projected, other),
        }


def projection_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Smooth-L1 distance of P z_S to the standardised z_T, a mean over B · D_t.

    Args:
        projected: (B, D_t).
        teacher: (B, D_t), not yet standardised.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(projected, teacher)
    with torch.autocast(projected.device.type, enabled=False):
        standardised = F.layer_norm(at_least_float32(teacher), teacher.shape[-1:])
        return F.smooth_l1_loss(at_least_float32(projected), standardised)


def pooled_tokens(
    distiller: Distiller, student: Outputs, teacher: Outputs
) -> tuple[Tensor, Tensor]:
    """The means, (B, D_s) and (B, D_t), over the patch tokens of the method's last layer pair.

    Tokens of a network's last block go through its final norm first: the means are the nearest
    that patch tokens come to the features before the classifier.
    """
    pair = zip(
        (distiller.trainable_module, distiller.teacher.model),
        (distiller.layers.student[-1], distiller.layers.teacher[-1]),
        distiller.token_pairs(student, teacher)[-1],
        strict=True,
    )
    own, other = (
        at_least_float32(after_final_norm(model, layer, tokens)).mean(dim=1)
        for model, layer, tokens in pair
    )
    return own, other
