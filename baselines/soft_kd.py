"""Soft-label knowledge distillation."""

from manifold.distiller import Distiller


class SoftKD(Distiller):
    """(1−α)·CE + α·T²·KL(teacher ‖ student), both means over the batch.

    α and T are the entry's, or else the recipe's.

    Source: Hinton et al. 2015, arXiv 1503.02531.
    """

    def terms(self, student, teacher, targets):
        return self.soft_kd(student, teacher, targets)
