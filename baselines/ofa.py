"""One-for-all knowledge distillation (OFA-KD)."""

from math import ceil, log2

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models.swin_transformer import PatchMerging
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from baselines.logits import check_logits, target_classes
from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.losses import at_least_float32, check_targets
from manifold.settings import LayerMap
from manifold.settings.section import NotNegative, Positive

STAGES = 4
HEADS = 4
FINAL_GRID = 7


class OneForAll(Distiller):
    """CE(student, targets) + logits · L(student) + branches · sum over four stages of L(branch).

    L is the OFA loss (``ofa_loss``) against the teacher's logits, and a branch a small trained
    network (``Branch``) from the tokens of a student block to logits. The teacher's tokens are not
    read. The four stages are spread evenly over the student's blocks of the layer map, the last
    block included: of the paper's eight blocks 0-3 and 8-11 these are 1, 3, 9 and 11, those of the
    published code for DeiT-Tiny.

    Hard labels: under mixup and smoothing, the target class of L is the argmax of the mixed target,
    as in the published code.

    Source: Hao et al. 2023, arXiv 2310.19444; all three weights 1 and temperature 1 as in
    Hao840/OFAKD, its defaults; exponent 1.5 of its ImageNet command (the default, with which L is
    plain soft KD, is 1).
    """

    uses_layers = True

    def __init__(
        self,
        student,
        teacher,
        *,
        logits: NotNegative,
        branches: NotNegative,
        exponent: Positive,
        layers: LayerMap | None = None,
        **common,
    ):
        if layers is not None:
            kept = stages(len(layers.student))
            layers = LayerMap(
                student=[layers.student[index] for index in kept],
                teacher=[layers.teacher[index] for index in kept],
            )
        super().__init__(student, teacher, layers=layers, **common)
        self.weights = {"logits": logits, "branches": branches}
        self.exponent = exponent
        self.auxiliary["branches"] = nn.ModuleList()
        for remaining, layer in zip(
            reversed(range(len(self.layers.student))), self.layers.student, strict=True
        ):
            layout = self.student_layouts[layer]
            self.auxiliary["branches"].append(
                Branch(
                    (layout.height, layout.width),
                    layout.channels,
                    student.num_features,
                    student.num_classes,
                    blocks=max(remaining, 1),
                )
            )

    def terms(self, student, teacher, targets):
        classes = target_classes(targets, student.logits)
        losses = [
            ofa_loss(branch(student.tokens[layer]), teacher.logits, classes, self.exponent)
            for branch, layer in zip(self.auxiliary["branches"], self.layers.student, strict=True)
        ]
        final = ofa_loss(student.logits, teacher.logits, classes, self.exponent)
        return {
            "cross_entropy": F.cross_entropy(student.logits, targets),
            "logits": self.weights["logits"] * final,
            "branches": self.weights["branches"] * torch.stack(losses).sum(),
        }


def stages(count: int) -> list[int]:
    """Indices of at most four of ``count`` entries, evenly spread, the last one included."""
    return sorted({ceil(count * stage / STAGES) - 1 for stage in range(1, STAGES + 1)})


class Branch(nn.Module):
    """Patch merging down to a 7×7 grid, transformer blocks, mean over the tokens, linear head.

    There are as many 2×2 mergings as leave 7 tokens a side or more, each LayerNorm, linear map and
    GELU (the last of several without it), and as many blocks of 4 heads as there are later stages,
    but one at least.

    That is the published branch for a transformer student without a class token (Swin). For a ViT
    the code runs its class token through the blocks too and reads that; the tokens that a method
    gets here are the patches', so their mean is read instead.

    Args:
        grid: (height, width) of the tokens.
        channels: of the tokens.
        features: of the student's head; the width after merging.
        classes: of the logits.
        blocks: number of transformer blocks.

    Raises:
        UserError: 4 heads do not divide the width.
    """

    def __init__(
        self, grid: tuple[int, int], channels: int, features: int, classes: int, blocks: int
    ):
        super().__init__()
        self.grid = grid
        mergings = max(int(log2(min(grid) / FINAL_GRID)), 0)
        width = features if mergings else channels
        if width % HEADS:
            raise UserError(f"the {HEADS} heads of OFA's branches do not divide {width} channels")
        self.merge = nn.Sequential()
        for index in range(mergings):
            self.merge.append(PatchMerging(channels if index == 0 else width, out_dim=width))
            if index == 0 or index < mergings - 1:
                self.merge.append(nn.GELU())
        self.blocks = nn.Sequential(*(Block(width, num_heads=HEADS) for _ in range(blocks)))
        self.head = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        merged = self.merge(tokens.unflatten(1, self.grid)).flatten(1, 2)
        return self.head(self.blocks(merged).mean(dim=1))


def ofa_loss(student: Tensor, teacher: Tensor, classes: Tensor, exponent: float) -> Tensor:
    """−Σ_k a_k log p_S(k), mean over B: a_c = (1 + p_T(c))^γ − 1 of the target class c, else p_T^γ.

    p are softmax probabilities and γ is ``exponent``. With γ = 1 it is cross-entropy with the
    teacher; a greater γ gives the target class more, the surer the teacher is of it. The −1 is the
    published code's: it takes out the share of the label itself, which the cross-entropy has.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        classes: (B,) indices of the target classes.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    check_logits(student, teacher)
    check_targets(classes, student)
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = at_least_float32(student), at_least_float32(teacher)
        target = F.one_hot(classes, student.shape[1]).to(teacher.dtype)
        aims = (teacher.softmax(dim=-1) + target) ** exponent - target
        return -(aims * student.log_softmax(dim=-1)).sum(dim=-1).mean()
