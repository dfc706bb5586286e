"""Proteus: the teacher's final tokens at three levels, without labels and without logits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.fitnet import hint_loss
from manifold.attention import check_tokens_can_be_dropped
from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.settings.section import NotNegative, PositiveShare
from manifold.tokens import has_class_tokens


class Proteus(Distiller):
    """token · L_token + feature · L_feature + patch · L_patch, and a classifier on the side.

    =========  =========================================================  =======================
    term       squared differences                                        divisor
    =========  =========================================================  =======================
    L_token    H_1(c_S) − c_T, the class tokens                           B · D_t
    L_feature  those, and H_2(F_S) − F_T, the patch tokens                B · (1 + N) · D_t
    L_patch    H_3(F_S of a masked image) − F_T, at its masked patches    their number · D_t
    =========  =========================================================  =======================

    Tokens are those after the networks' final norm; H_i are a LayerNorm and a linear map D_s → D_t
    each. For L_patch the student sees the first ``masked_images`` of the batch a second time, with
    one learned token in the place of int(N · mask_ratio) embedded patches of each, drawn anew at
    every step.

    The authors train no classifier, and judge the student by a linear probe. Here the student's
    classifier is trained along, by CE(classifier, targets) on features whose gradient is stopped:
    no label and no logit reaches anything else.

    Raises:
        UserError: the student is not a ViT with a class token, or the teacher ends in none.

    Source: Zhang et al. 2025, arXiv 2407.10366; weights 1, half of the images and half of their
    patches as in BeSpontaneous/Proteus-pytorch (``models_proteus_dinov2.py``, ``run_pretrain.sh``).
    """

    uses_layers = True
    reads_logits = False
    gathers = False  # every term is a mean over images

    def __init__(
        self,
        student,
        teacher,
        *,
        token: NotNegative,
        feature: NotNegative,
        patch: NotNegative,
        masked_images: PositiveShare,
        mask_ratio: PositiveShare,
        **common,
    ):
        check_tokens_can_be_dropped(student)
        if not has_class_tokens(student) or getattr(teacher.model, "cls_token", None) is None:
            model = teacher.model if has_class_tokens(student) else student
            raise UserError(
                f"compares class tokens, and {type(model).__name__} has none that could be read: "
                "take timm's VisionTransformer with a class token or DeiT for the student, and for "
                "the teacher one of these, Eva (DINOv3) or Cait"
            )
        super().__init__(student, teacher, **common)
        self.weights = {"token": token, "feature": feature, "patch": patch}
        self.masked_images = masked_images
        self.mask_ratio = mask_ratio
        own, other = student.num_features, teacher.model.num_features
        self.auxiliary["heads"] = nn.ModuleDict(
            {
                level: nn.Sequential(nn.LayerNorm(own), nn.Linear(own, other))
                for level in self.weights
            }
        )
        self.auxiliary["masked"] = MaskToken(student.pos_embed.shape[-1])

    def ask_teacher(self, images, student):
        student.images = images
        return super().ask_teacher(images, student)

    def terms(self, student, teacher, targets):
        model, heads = self.trainable_module, self.auxiliary["heads"]
        class_own, own = _split(model, student.features)
        class_other, other = _split(self.teacher.model, teacher.features)
        token = heads["token"](class_own)
        whole = torch.cat([token, heads["feature"](own)], dim=1)
        images = student.images[: max(1, int(self.masked_images * len(student.images)))]
        masked = draw_masks(len(images), own.shape[1], self.mask_ratio, self.sampling)
        masked = masked.to(images.device)
        _, seen = _split(model, self.auxiliary["masked"](model, images, masked))
        losses = {
            "token": hint_loss(token, class_other),
            "feature": hint_loss(whole, torch.cat([class_other, other], dim=1)),
            "patch": hint_loss(heads["patch"](seen[masked]), other[: len(images)][masked]),
        }
        logits = model.forward_head(student.features.detach())
        return {
            "cross_entropy": F.cross_entropy(logits, targets),
            **{level: self.weights[level] * loss for level, loss in losses.items()},
        }


class MaskToken(nn.Module):
    """The learned token that stands for a masked patch.

    Args:
        channels: of the embedded patches.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, channels))

    def forward(self, model: nn.Module, images: Tensor, masked: Tensor) -> Tensor:
        """The final features (B, prefix + N, D) of a pass in which the masked patches are unseen.

        Args:
            model: a ViT; patches are replaced once they are embedded, before positions are added.
            images: (B, C, H, W).
            masked: (B, N) bool.
        """

        def replace(_module: nn.Module, _inputs: tuple, patches: Tensor) -> Tensor:
            return torch.where(masked.unsqueeze(-1), self.token.to(patches.dtype), patches)

        hook = model.patch_embed.register_forward_hook(replace)
        try:
            return model.forward_features(images)
        finally:
            hook.remove()


def draw_masks(images: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw the masked patches of each image, (B, N) bool: int(N · ratio) of them, at least one."""
    noise = torch.rand(images, patches, generator=generator)
    return noise.argsort(dim=1).argsort(dim=1) < max(1, int(patches * ratio))


def _split(model: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """The class token (B, 1, D) and the patch tokens (B, N, D) of a sequence of both."""
    return features[:, :1], features[:, model.num_prefix_tokens :]
