"""Patch tokens of any timm model that has ``forward_intermediates``: ViT, CaiT, Swin, ConvNeXt…"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from manifold.errors import UserError
from manifold.losses import at_least_float32


@dataclass
class Outputs:
    """What one forward pass of a network gives to the losses.

    Attributes:
        logits: (B, classes); the mean of both heads' for a network with a distillation token.
        tokens: block → patch tokens (B, N, D) on the residual stream, before the final norm,
            prefix tokens left out, large maps merged.
        heads: (class-token logits, distillation-token logits), where the network returns both.
        attention: block → (B, N), how the class token attends to the patches there (heads
            averaged, each row a distribution); where the method asks for it.
        class_tokens: block → class token (B, D) on the residual stream; none of a network whose
            blocks carry none, as CaiT's.
        features: what the network's head pools, after its final norm: of a ViT, DeiT or CaiT the
            sequence (B, prefix + N, D); where tokens are asked for.
        images: (B, C, H, W) that the pass was of; where the method sees them again.
    """

    logits: Tensor
    tokens: dict[int, Tensor]
    heads: tuple[Tensor, Tensor] | None = None
    attention: dict[int, Tensor] | None = None
    class_tokens: dict[int, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    images: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Outputs":
        """Return the outputs with ``function`` of every tensor."""
        return Outputs(
            logits=function(self.logits),
            tokens={layer: function(tokens) for layer, tokens in self.tokens.items()},
            heads=self.heads and (function(self.heads[0]), function(self.heads[1])),
            attention=self.attention
            and {block: function(rows) for block, rows in self.attention.items()},
            class_tokens={layer: function(rows) for layer, rows in self.class_tokens.items()},
            features=None if self.features is None else function(self.features),
            images=None if self.images is None else function(self.images),
        )

    def chunk(self, parts: int) -> list["Outputs"]:
        """Split the batch into ``parts`` of equal size."""
        if parts == 1:
            return [self]
        return [self.map(lambda x, i=i: x.chunk(parts)[i]) for i in range(parts)]


@dataclass(frozen=True)
class Layout:
    """The patch tokens of one block: a grid of ``height`` × ``width``, ``channels`` wide."""

    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.height * self.width} = {self.height}×{self.width}"


def forward_with_tokens(
    model: nn.Module, images: Tensor, layers: Iterable[int], most_tokens: int
) -> Outputs:
    """Run ``model`` once and return its logits and the patch tokens after ``layers``.

    Prefix tokens are dropped by the model's own ``num_prefix_tokens``, never by a difference of
    counts.

    Args:
        model: a timm model.
        images: (B, C, H, W), normalised.
        layers: block indices (stage indices for hierarchical models); may be empty.
        most_tokens: maps of more tokens are merged to this many, see ``merge``.
    """
    layers = sorted(set(layers))
    features, maps, prefixes = None, [], []
    if layers:
        options = {"return_prefix_tokens": True} if has_class_tokens(model) else {}
        features, maps = model.forward_intermediates(
            images, indices=layers, output_fmt="NCHW", **options
        )
        if options:
            maps, prefixes = zip(*maps, strict=True)
    logits = model(images) if features is None else model.forward_head(features)
    heads = logits if isinstance(logits, tuple) else None
    return Outputs(
        logits=(heads[0] + heads[1]) / 2 if heads else logits,
        tokens={
            layer: merge(patches, most_tokens).flatten(2).mT.contiguous()
            for layer, patches in zip(layers, maps, strict=True)
        },
        heads=heads,
        class_tokens={layer: prefix[:, 0] for layer, prefix in zip(layers, prefixes, strict=False)},
        features=features,
    )


def has_class_tokens(model: nn.Module) -> bool:
    """Whether every block of a network carries its class token; CaiT's joins after the trunk."""
    return isinstance(model, VisionTransformer | Eva) and model.cls_token is not None


def after_final_norm(model: nn.Module, layer: int, tokens: Tensor) -> Tensor:
    """Put tokens that left the last block through the network's final norm, in float32 at least.

    Tokens of an earlier block, and those of a network whose last block is followed by no ``norm``
    of its own, are returned as they are.

    Args:
        tokens: (B, N, D) as they left ``layer`` of ``model``.

    Raises:
        UserError: the tokens were merged, and the norm is over the channels of one of them.
    """
    norm = getattr(model, "norm", None) if layer == len(model.feature_info) - 1 else None
    if norm is None:
        return tokens
    channels = getattr(norm, "normalized_shape", tokens.shape[-1:])[-1]
    if channels != tokens.shape[-1]:
        raise UserError(
            f"the final norm of {type(model).__name__} is over {channels} channels, and its merged "
            f"tokens have {tokens.shape[-1]}; raise most_tokens or choose another layer map"
        )
    with torch.autocast(tokens.device.type, enabled=False):
        return norm(at_least_float32(tokens))


def merge(patches: Tensor, most_tokens: int) -> Tensor:
    """Merge squares of neighbours of a map that has more than ``most_tokens`` tokens.

    The channels of each k×k square are concatenated, with the smallest k that leaves at most
    ``most_tokens``: Swin's 3136×96 becomes 196×1536. Pixel-unshuffle permutes the concatenated
    channels, which no relation map sees.

    Args:
        patches: (B, D, H, W).

    Returns:
        (B, k·k·D, H/k, W/k).

    Raises:
        UserError: no k divides both sides and leaves two tokens or more.

    Source: paper, section 3 (merging of hierarchical nets' patches).
    """
    height, width = patches.shape[-2:]
    if height * width <= most_tokens:
        return patches
    for square in range(2, min(height, width) + 1):
        fits = 1 < (height // square) * (width // square) <= most_tokens
        if fits and height % square == 0 and width % square == 0:
            return nn.functional.pixel_unshuffle(patches, square)
    raise UserError(
        f"a map of {height}×{width} tokens cannot be merged to at most {most_tokens}: no square "
        "of neighbours divides both sides and leaves two; change the image size or most_tokens"
    )


@torch.no_grad()
def layouts(
    model: nn.Module, image_shape: tuple[int, int, int], layers: Iterable[int], most_tokens: int
) -> dict[int, Layout]:
    """Return the layout of the merged patch tokens after each of ``layers``.

    Args:
        image_shape: (channels, height, width) of one image.

    Raises:
        UserError: a block that the model does not have, or a model that gives no tokens.
    """
    layers = sorted(set(layers))
    if not layers:
        return {}
    name = type(model).__name__
    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"{name} gives no patch tokens: timm's {name} has no forward_intermediates")
    depth = len(model.feature_info)
    for layer in layers:
        if not 0 <= layer < depth:
            raise UserError(
                f"layer {layer} is out of range: {name} has {depth} blocks, 0 to {depth - 1}"
            )
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    maps = model.forward_intermediates(
        torch.zeros(1, *image_shape, device=device),
        indices=layers,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    model.train(training)
    merged = (merge(patches, most_tokens) for patches in maps)
    return {
        layer: Layout(patches.shape[2], patches.shape[3], patches.shape[1])
        for layer, patches in zip(layers, merged, strict=True)
    }


def check_grids(student: dict[int, Layout], teacher: dict[int, Layout], layers) -> None:
    """Refuse a layer map whose token grids differ.

    Raises:
        UserError: names both blocks and both grids.
    """
    for student_layer, teacher_layer in zip(layers.student, layers.teacher, strict=True):
        own, other = student[student_layer], teacher[teacher_layer]
        if (own.height, own.width) != (other.height, other.width):
            raise UserError(
                f"token grids do not match: student block {student_layer} has {own}, "
                f"teacher block {teacher_layer} has {other}; give both the same grid "
                "(patch size, image size) or pair other blocks"
            )
