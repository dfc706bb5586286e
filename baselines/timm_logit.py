"""timm's own task of logit distillation, with its weights."""

import torch.nn.functional as F

from manifold.distiller import Distiller
from manifold.losses import kl_divergence
from manifold.settings.section import NotNegative, Positive


class TimmLogitDistillation(Distiller):
    """task·CE(student, targets) + distill·τ²·KL(teacher ‖ student), both means over the batch.

    The recipe's α and T play no part. Its results are those of ``timm.task.LogitDistillationTask``.

    Source: timm 1.0.31, ``timm/task/distillation.py``; both weights 1 and τ = 1 where none is said.
    """

    def __init__(self, *networks, task: NotNegative, distill: NotNegative, tau: Positive, **common):
        super().__init__(*networks, **common)
        self.weights = {"task": task, "distill": distill}
        self.tau = tau

    def terms(self, student, teacher, targets):
        divergence = kl_divergence(student.logits, teacher.logits, self.tau)
        return {
            "cross_entropy": self.weights["task"] * F.cross_entropy(student.logits, targets),
            "kl": self.weights["distill"] * self.tau**2 * divergence,
        }
