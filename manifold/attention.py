"""The class token's attention over the patches, and a pass over the patches that it attends to."""

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.cait import Cait
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from manifold.errors import UserError
from manifold.losses import at_least_float32
from manifold.tokens import Layout


class AttentionReader:
    """Reads how a network's class token attends to its patches, in the last block that asks it.

    That is the last block of a ViT or DeiT, and the first class-attention block of a CaiT, which
    is counted as the block after the trunk. A hook keeps what enters the block's attention module,
    and the class token's row is computed from it a second time: the network's own pass, with its
    fused kernel and its dropout, stays what it was, bit for bit.

    Args:
        model: the timm model; the hook stays on it.

    Attributes:
        block: the block's number.
        layout: the grid of the patches.

    Raises:
        UserError: the network has no class token that attends to patches.
    """

    def __init__(self, model: nn.Module):
        self.block, self._module, self._prefix_tokens = _find_attention(model)
        self.layout = patch_grid(model)
        self._tokens: Tensor | None = None
        # On the model for good: torch.compile does not look for hooks that come and go.
        self._module.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple) -> None:
        self._tokens = inputs[0]

    def take(self) -> dict[int, Tensor]:
        """Return {block: (B, N)} of the model's last pass, with its gradient; once a pass."""
        tokens, self._tokens = self._tokens, None
        return {self.block: class_attention(self._module, tokens, self._prefix_tokens)}


def class_attention(module: nn.Module, tokens: Tensor, prefix_tokens: int) -> Tensor:
    """Return the class token's attention over the patches, (B, N), a distribution each.

        a = mean over the heads of softmax(q_class · kᵀ / √d), over all tokens;
        the patches' part of it, divided by its sum

    Computed in float32 at least, outside autocast.

    Args:
        module: timm's ``Attention``, or CaiT's ``ClassAttn``.
        tokens: (B, prefix + N, D) as they enter it, the class token first.
        prefix_tokens: tokens before the patches.
    """
    query, key = _projections(module)
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = at_least_float32(tokens)
        queries, keys = (
            F.linear(rows, *(part if part is None else part.to(rows.dtype) for part in projection))
            .unflatten(2, (module.num_heads, -1))
            .transpose(1, 2)
            for rows, projection in ((tokens[:, :1], query), (tokens, key))
        )
        if isinstance(module, Attention):  # norms of some ViTs; CaiT has none
            queries, keys = module.q_norm(queries), module.k_norm(keys)
        scores = queries @ keys.mT * module.scale  # (B, heads, 1, tokens)
        attention = scores.softmax(dim=-1).mean(dim=1).squeeze(1)
        return F.normalize(attention[:, prefix_tokens:], p=1, dim=-1)


def logits_of_kept(model: nn.Module, images: Tensor, kept: Tensor) -> Tensor:
    """Return the logits of a pass that sees some of the patches alone.

    The other patches are left out once positions are added, before the first block.

    Args:
        model: a ViT, DeiT or CaiT, for which ``check_tokens_can_be_dropped`` passes.
        images: (B, C, H, W), as the model expects them.
        kept: (B, K) integer positions in the model's grid.
    """
    prefix_tokens = _prefix_of_trunk(model)

    def keep(_module: nn.Module, _inputs: tuple, tokens: Tensor) -> Tensor:
        patches = tokens[:, prefix_tokens:]
        rows = kept.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        return torch.cat([tokens[:, :prefix_tokens], patches.gather(1, rows)], dim=1)

    # Both families end the embedding of patches and positions with this dropout.
    hook = model.pos_drop.register_forward_hook(keep)
    try:
        return model(images)
    finally:
        hook.remove()


def patch_grid(model: nn.Module) -> Layout:
    """The grid of a network's patches."""
    height, width = model.patch_embed.grid_size
    return Layout(height, width, model.embed_dim)


def check_tokens_can_be_dropped(model: nn.Module) -> None:
    """Refuse a network that needs the whole grid of its patches.

    Raises:
        UserError: names the network.
    """
    if not isinstance(model, Cait | VisionTransformer):
        raise UserError(
            f"{type(model).__name__} cannot be run on some of its patches: that takes a network of "
            "plain blocks over tokens, such as timm's VisionTransformer, DeiT or Cait"
        )


def _projections(module: nn.Module) -> tuple[tuple, tuple]:
    """(weight, bias) of the queries and of the keys."""
    if not isinstance(module, Attention):
        return (module.q.weight, module.q.bias), (module.k.weight, module.k.bias)
    weights = module.qkv.weight.chunk(3)
    biases = (None,) * 3 if module.qkv.bias is None else module.qkv.bias.chunk(3)
    return (weights[0], biases[0]), (weights[1], biases[1])


def _prefix_of_trunk(model: nn.Module) -> int:
    """Tokens before the patches when the blocks begin; CaiT's class token joins after them."""
    return 0 if isinstance(model, Cait) else model.num_prefix_tokens


def _find_attention(model: nn.Module) -> tuple[int, nn.Module, int]:
    """The number of the block, its attention module, and the tokens before the patches there."""
    if isinstance(model, Cait) and model.blocks_token_only:
        return len(model.blocks), model.blocks_token_only[0].attn, model.num_prefix_tokens
    if isinstance(model, VisionTransformer) and model.has_class_token:
        module = getattr(model.blocks[-1], "attn", None)
        if isinstance(module, Attention):
            return len(model.blocks) - 1, module, model.num_prefix_tokens
    raise UserError(
        f"{type(model).__name__} has no attention of a class token over patches that could be "
        "read: that takes timm's VisionTransformer with a class token, DeiT or Cait"
    )
