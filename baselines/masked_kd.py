"""MaskedKD: soft KD from a teacher that sees what the student attends to."""

import torch

from manifold.attention import check_tokens_can_be_dropped, logits_of_kept, patch_grid
from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.settings import LayerMap
from manifold.settings.section import PositiveShare
from manifold.tokens import Outputs, check_grids

CHOICES = ("attention", "random")  # of the patches that the teacher sees


class MaskedKD(Distiller):
    """(1−α)·CE + α·T²·KL(teacher of the kept patches ‖ student), both means over the batch.

    α and T are the entry's, or else the recipe's.

    The teacher sees int(keep · N) patches of each image, and pays for these alone: those that the
    student's class token attends to most (last block, mean over the heads), or with ``choice:
    random`` any, which is the control. Of the others nothing is computed after patches and
    positions are embedded.

    It has a teacher's pass of its own, counted as the method's time; the pass that all methods
    share plays no part. Everything but the teacher's logits is as in ``soft_kd``. The entry has
    the authors' α of 0.5: with α = 1 an untrained student would choose what it is taught of, and
    learn of nothing else.

    Raises:
        UserError: a student without a class token, a teacher that needs its whole grid, or grids
            that differ.

    Source: Son et al. 2024, arXiv 2302.10494; half of the patches as in effl-lab/MaskedKD
    (``--len_num_keep 98`` of 196).
    """

    uses_teacher = False  # not the shared pass
    uses_attention = True

    def __init__(
        self, student, teacher, *, keep: PositiveShare, choice: str = "attention", **common
    ):
        if choice not in CHOICES:
            raise UserError(f"argument 'choice' must be {' or '.join(CHOICES)}, got {choice!r}")
        check_tokens_can_be_dropped(teacher.model)
        super().__init__(student, teacher, **common)
        check_grids(
            {0: self.attention.layout},
            {0: patch_grid(teacher.model)},
            LayerMap(student=[0], teacher=[0]),
        )
        self.keep = keep
        self.choice = choice

    @torch.no_grad()
    def ask_teacher(self, images, student):
        (attention,) = student.attention.values()
        if self.choice == "random":  # of the step's own stream, which a resume starts anew
            attention = torch.rand(attention.shape).to(attention.device)
        count = max(1, int(self.keep * attention.shape[1]))
        kept = attention.topk(count, dim=1).indices
        teacher = self.teacher
        logits = logits_of_kept(teacher.model, teacher.rescaled(images), kept)
        return Outputs(logits=logits, tokens={})

    def terms(self, student, teacher, targets):
        return self.soft_kd(student, teacher, targets)
