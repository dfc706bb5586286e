"""WideLast: features of the last block, which the student has as wide as the teacher."""

from baselines.fitnet import hint_loss
from baselines.lift import check_last_blocks
from manifold.distiller import Distiller
from manifold.settings.section import NotNegative


class WideLast(Distiller):
    """Soft KD + weight · MSE(F_S, F_T) at the last blocks, a mean over B · N · D_t.

    The student's last block, final norm and head are as wide as the teacher; there is no projector
    but that of the student's own, between its last two blocks. So the student is another network,
    of more parameters, and ``soft_kd_wide_last`` is what it reaches without the feature term. Both
    networks' tokens are taken before the final norm.

    Raises:
        UserError: the student's last block is not as wide as the teacher's, or the layer map names
            more than the last blocks.

    Source: Tian et al. 2026, arXiv 2511.15572; weight 0.2 and alpha 0.9 as in
    thy960112/From-Per-Image-Low-Rank-to-Encoding-Mismatch (``training/widelast``, its run of
    78.23).
    """

    uses_layers = True
    published_base = "soft_kd"

    def __init__(self, student, teacher, *, weight: NotNegative, **common):
        super().__init__(student, teacher, **common)
        check_last_blocks(self, next(iter(self.student_layouts.values())).channels)
        self.weight = weight

    def terms(self, student, teacher, targets):
        ((own, other),) = self.token_pairs(student, teacher)
        return {
            **self.base_terms(student, teacher, targets),
            "features": self.weight * hint_loss(own, other),
        }
