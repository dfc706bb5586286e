"""What every method is: a ``timm.task.TrainingTask`` that turns two networks into named losses."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from timm.task import TrainingTask
from torch import Tensor, nn

from manifold.attention import AttentionReader
from manifold.errors import UserError
from manifold.losses import check_targets, kl_divergence
from manifold.ranks import ALONE, Ranks
from manifold.settings.networks import NO_LAYERS, LayerMap
from manifold.settings.section import Count, Positive, Rate, Share
from manifold.tokens import Outputs, check_grids, forward_with_tokens, layouts

Base = Literal["cross_entropy", "soft_kd"]


class FrozenTeacher(nn.Module):
    """A teacher that cannot leave eval mode, has no gradient, and runs once a batch.

    The outputs of the last batch are kept: the members of a cohort ask with the same tensor, and
    the first of them pays for the pass.

    Args:
        model: the timm model.
        most_tokens: larger token maps are merged to this many.
        rescale: (factor, offset), each (C,), that turn the student's normalised images into the
            teacher's; None where both are normalised alike.
    """

    def __init__(
        self,
        model: nn.Module,
        most_tokens: int,
        rescale: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.is_headless = getattr(model, "num_classes", None) == 0
        self.most_tokens = most_tokens
        self.rescale = rescale
        self.run = forward_with_tokens
        self.layers: set[int] = set()
        self.attention: AttentionReader | None = None
        self.sha256: str | None = None
        self._last: tuple[Tensor, int, Outputs] | None = None
        self.eval()

    def train(self, mode: bool = True) -> "FrozenTeacher":
        return super().train(False)

    def watch(self, layers: list[int]) -> None:
        """Ask for the tokens of these blocks in every later pass."""
        self.layers.update(layers)
        self._last = None

    def watch_attention(self) -> AttentionReader:
        """Ask for the class token's attention in every later pass."""
        if self.attention is None:
            self.attention = AttentionReader(self.model)
            self._last = None
        return self.attention

    def rescaled(self, images: Tensor) -> Tensor:
        """Return the student's images as the teacher expects them."""
        if self.rescale is None:
            return images
        factor, offset = (values.to(images).view(1, -1, 1, 1) for values in self.rescale)
        return images * factor + offset

    @torch.no_grad()
    def forward(self, images: Tensor) -> Outputs:
        if self._last is not None:
            known_images, version, outputs = self._last
            if known_images is images and version == images._version:
                return outputs
        outputs = self.run(self.model, self.rescaled(images), self.layers, self.most_tokens)
        if self.attention is not None:
            outputs.attention = self.attention.take()
        self._last = (images, images._version, outputs)
        return outputs


class Distiller(TrainingTask):
    """A method: owns the student, its own auxiliary modules and a reference to the teacher.

    A method derives from this class, keeps its weights in ``__init__``, registers what it trains
    beside the student in ``self.auxiliary``, and returns its weighted losses from ``terms``.

    In the formulas of all methods CE(student, targets) is the cross-entropy with the targets as
    the recipe makes them, smoothed and, under mixup, mixed: a mean over the batch.

    Args:
        student: the timm model that is trained.
        teacher: the frozen teacher, shared with other methods; None for a method without one.
        image_shape: (channels, height, width) of one image.
        layers: blocks that are compared; None for methods that read logits alone.
        most_tokens: larger token maps are merged to this many.
        alpha, temperature: of ``soft_kd``, set by the recipe unless the method's entry does.
        label_smoothing: of the targets that are probabilities, set by the recipe.
        base: what the method's own terms are added to, CE(student, targets) or ``soft_kd``; by
            default as it was published, in ``published_base``.
        relational_ranks: the processes whose batches together are one relational batch; by default
            this one alone, and relations are taken within a shard.

    Attributes:
        trainable_module: the student (timm's name for it).
        auxiliary: modules that are trained with the student and thrown away with the method.
        sampling: the generator for the method's own draws; reseeded at every step.
        student_layouts, teacher_layouts: block → token layout, for the sizes of projectors.

    Raises:
        UserError: a layer map that is missing or out of range, token grids that do not match, a
            network without the attention that the method reads, or a teacher without a classifier
            where its logits are read.
    """

    uses_teacher = True  # reads the teacher's pass that all methods share
    uses_layers = False
    uses_attention = False  # `Outputs.attention` is filled
    published_base: ClassVar[Base | None] = None  # None: the method is not added to another loss
    reads_logits = True  # the teacher's, in a method that has no base
    gathers = True  # where the relational batch is that of all ranks, `terms` sees all of it

    def __init__(
        self,
        student: nn.Module,
        teacher: FrozenTeacher | None,
        *,
        image_shape: tuple[int, int, int],
        most_tokens: Count,
        alpha: Share,
        temperature: Positive,
        label_smoothing: Rate = 0.0,
        base: Base | None = None,
        layers: LayerMap | None = None,
        relational_ranks: Ranks = ALONE,
    ):
        if self.uses_layers and layers is None:
            raise UserError("needs the argument 'layers', the name of one of the pair's layer maps")
        if base is not None and self.published_base is None:
            raise UserError(f"has no base to choose, and 'base' is {base!r}; leave it out")
        if base not in (None, *get_args(Base)):
            raise UserError(
                f"argument 'base' must be one of {', '.join(get_args(Base))}, got {base!r}"
            )
        self.base = base or self.published_base
        reads_logits = self.base == "soft_kd" or (self.base is None and self.reads_logits)
        if teacher is not None and teacher.is_headless and reads_logits:
            cure = " with base: cross_entropy" if self.published_base else ""
            raise UserError(
                "reads the teacher's logits, and this teacher has no classifier (num_classes 0); "
                f"take another teacher, or a method on features or relations{cure}"
            )
        super().__init__(device=next(student.parameters()).device, verbose=False)
        self.trainable_module = student
        self.auxiliary = nn.ModuleDict()
        # Not registered as a submodule: train(), parameters() and state_dict() pass it by.
        object.__setattr__(self, "teacher", teacher)
        self.most_tokens = most_tokens
        self.alpha = alpha
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.layers = layers or NO_LAYERS
        self.relational_ranks = relational_ranks
        self.run = forward_with_tokens
        self.sampling = torch.Generator()
        self.student_layouts = layouts(student, image_shape, self.layers.student, most_tokens)
        self.teacher_layouts = {}
        if self.uses_teacher:
            self.teacher_layouts = layouts(
                teacher.model, image_shape, self.layers.teacher, most_tokens
            )
            check_grids(self.student_layouts, self.teacher_layouts, self.layers)
            teacher.watch(self.layers.teacher)
        self.attention = AttentionReader(student) if self.uses_attention else None
        if self.uses_attention and self.uses_teacher:
            own, other = self.attention, teacher.watch_attention()
            check_grids(
                {own.block: own.layout},
                {other.block: other.layout},
                LayerMap(student=[own.block], teacher=[other.block]),
            )

    def forward(
        self, images: Tensor, targets: Tensor, sampling_seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Return ``loss``, ``output`` (logits) and every named, weighted term of the loss.

        Args:
            images: (B, C, H, W), normalised, as augmented and mixed for the student.
            targets: (B, classes) probabilities, or (B,) class indices.
            sampling_seeds: of ``sampling``, one for each relational batch of equal size that the
                images are, one after another; a term is the mean over them. None: the images are
                one relational batch, and the generator goes on from where it stands.

        Raises:
            ValueError: targets of another batch or other classes, or outputs of the two networks
                that do not fit each other.
        """
        student = self.run(self.trainable_module, images, self.layers.student, self.most_tokens)
        if self.attention is not None:
            student.attention = self.attention.take()
        check_targets(targets, student.logits)
        teacher = self.ask_teacher(images, student)
        seeds = [None] if sampling_seeds is None else sampling_seeds
        parts = []
        batches = self._relational_batches(student, teacher, targets, len(seeds))
        for seed, batch in zip(seeds, batches, strict=True):
            if seed is not None:
                self.sampling.manual_seed(seed)
            parts.append(self.terms(*batch))
        terms = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        return {"loss": sum(terms.values()), "output": student.logits, **terms}

    def ask_teacher(self, images: Tensor, student: Outputs) -> Outputs | None:
        """The teacher's outputs for the student's images; None where the method has no teacher."""
        return self.teacher(images) if self.uses_teacher else None

    def _relational_batches(self, student, teacher, targets, count: int) -> Iterator[tuple]:
        """The outputs and targets in ``count`` parts; or, of several ranks, those of all images."""
        if self.relational_ranks.count > 1 and self.gathers:
            gather = self.relational_ranks.gather
            student, targets = student.map(gather), gather(targets)
            teacher = teacher and teacher.map(gather)
        teachers = teacher.chunk(count) if teacher else [None] * count
        return zip(student.chunk(count), teachers, targets.chunk(count), strict=True)

    def compile(self, backend: str = "inductor", mode: str | None = None, **options) -> None:
        """Compile the forward passes of the student and of the teacher (timm's hook for it)."""
        # The graph is gone through more than once where the terms' gradients are looked at.
        torch._functorch.config.donated_buffer = False
        self.run = torch.compile(forward_with_tokens, backend=backend, mode=mode, **options)
        if self.uses_teacher:
            self.teacher.run = self.run

    def terms(self, student: Outputs, teacher: Outputs | None, targets: Tensor) -> dict[str, Any]:
        """Return the method's named losses, weighted; their sum is minimised.

        All three arguments are of the images of one relational batch.
        """
        raise NotImplementedError

    def token_pairs(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """The (student, teacher) tokens of each layer pair, (B, N, D_s) and (B, N, D_t)."""
        return [
            (student.tokens[own], teacher.tokens[other])
            for own, other in zip(self.layers.student, self.layers.teacher, strict=True)
        ]

    def base_terms(self, student: Outputs, teacher: Outputs, targets: Tensor) -> dict[str, Tensor]:
        """The terms that the method's own are added to: ``soft_kd``'s, or CE(student, targets)."""
        if self.base == "soft_kd":
            return self.soft_kd(student, teacher, targets)
        return {"cross_entropy": F.cross_entropy(student.logits, targets)}

    def soft_kd(self, student: Outputs, teacher: Outputs, targets: Tensor) -> dict[str, Tensor]:
        """(1−α)·CE(student, targets) + α·T²·KL(teacher ‖ student), KL summed over the classes.

        Both are means over the batch alone, never over batch × classes. With α = 1 there is no
        cross-entropy term at all: the labels are not used.

        Source: Hinton et al. 2015, arXiv 1503.02531; reduction as in Hao840/manifold-distillation.
        """
        terms = {}
        if self.alpha < 1:
            terms["cross_entropy"] = (1 - self.alpha) * F.cross_entropy(student.logits, targets)
        if self.alpha > 0:
            divergence = kl_divergence(student.logits, teacher.logits, self.temperature)
            terms["kl"] = self.alpha * self.temperature**2 * divergence
        return terms

    def no_weight_decay(self) -> set[str]:
        """Names of the student's parameters that timm never decays, as the optimizer sees them."""
        names = getattr(self.trainable_module, "no_weight_decay", set)()
        return {f"trainable_module.{name}" for name in names}
