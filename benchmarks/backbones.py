"""Students without their heads, for images of any size, and the pyramid of a plain one's maps.

A backbone gives the maps that timm's own ``forward_intermediates`` gives: every stage of a
hierarchical network (Swin, ConvNeXt); the last block of a plain one (DeiT), or several blocks.
"""

from functools import partial
from pathlib import Path

import torch
from timm.layers import LayerNorm2d, PatchEmbed
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor, nn

from manifold.errors import UserError
from manifold.models import classes_of, create_model, load_weights, read_weights
from manifold.settings import Model

# What lets a network of timm read images of any size; convolutional networks need nothing.
ANY_SIZE = {
    VisionTransformer: {"dynamic_img_size": True, "dynamic_img_pad": True},
    SwinTransformer: {
        "strict_img_size": False,
        "embed_layer": partial(PatchEmbed, dynamic_img_pad=True),
    },
}


def open_network(
    model: Model,
    image_shape: tuple[int, int, int],
    weights: Path | None,
    channels: int,
    drop_path: float = 0.0,
    patch_embedding: Path | None = None,
) -> nn.Module:
    """A student's network without its classifier, for images of any size.

    Args:
        image_shape: (channels, height, width) that the student was trained on.
        weights: its ``student.safetensors``; None for random weights.
        channels: of the images to come. A grey student sees a grey picture in three channels as it
            does in one: its first convolution is spread over them.
        drop_path: the rate of stochastic depth while it is trained.
        patch_embedding: a ``student.safetensors`` of the same network of which the first
            convolution alone is taken, which is a ViT's patch embedding.

    Raises:
        UserError: weights that are missing, damaged or of another network; a network that gives no
            maps, or whose images must be of one size.
    """
    drawn = create_model(model, image_shape, 0)
    _check(drawn, model.name)
    state, first = drawn.state_dict(), drawn.pretrained_cfg["first_conv"]
    if weights:
        trained = _weights_of(model, image_shape, weights)
        state |= {key: trained[key] for key in state}
    if patch_embedding:
        trained = _weights_of(model, image_shape, patch_embedding)
        state |= {key: trained[key] for key in state if key.startswith(f"{first}.")}
    sizes = next((own for kind, own in ANY_SIZE.items() if isinstance(drawn, kind)), {})
    network = create_model(
        Model(name=model.name, arguments={**model.arguments, **sizes}),
        (channels, *image_shape[1:]),
        0,
        drop_path,
    )
    network.load_state_dict(_with_channels(state, first, channels))
    return network


def maps_of(
    network: nn.Module, blocks: int = 1, where: str = "blocks"
) -> tuple[list[int], list[int], list[int]]:
    """The positions, the strides in pixels, and the widths of the maps that a backbone gives.

    Args:
        network: as ``open_network`` gives it.
        blocks: how many blocks of a plain network give a map, see ``evenly_spaced``. Of a
            hierarchical network all stages do, whatever is said here.
        where: the key of ``blocks``, for messages.

    Raises:
        UserError: a plain network has fewer blocks.
    """
    strides = [stage["reduction"] for stage in network.feature_info]
    layers = list(range(len(strides)))
    if len(set(strides)) == 1:  # a plain network
        layers = evenly_spaced(blocks, len(strides), where)
    widths = [network.feature_info[layer]["num_chs"] for layer in layers]
    return layers, [strides[layer] for layer in layers], widths


def evenly_spaced(count: int, depth: int, where: str) -> list[int]:
    """The positions of so many of a network's blocks: every depth/count-th, down to the last.

    Of 12 blocks 4 are 2, 5, 8, 11, counted from 0.

    Args:
        where: the key of the count, for messages.

    Raises:
        UserError: there are fewer blocks.

    Source: Ranftl et al. 2021, Vision Transformers for Dense Prediction, arXiv 2103.13413, section
    3, where ViT-Base has these; BEiT's and XCiT's dense heads have 3, 5, 7, 11.
    """
    if type(count) is not int or not 1 <= count <= depth:
        raise UserError(
            f"{where} must be a whole number from 1 to {depth}, which are the student's blocks; "
            f"got {count!r}"
        )
    return [place * depth // count - 1 for place in range(1, count + 1)]


def _weights_of(
    model: Model, image_shape: tuple[int, int, int], weights: Path
) -> dict[str, Tensor]:
    """A student's weights, its head's too, held to its network."""
    what = f"the student {model.name!r}"
    trained = create_model(model, image_shape, classes_of(read_weights(weights, what)) or 0)
    load_weights(trained, weights, what)
    return trained.state_dict()


def _check(network: nn.Module, name: str) -> None:
    if not hasattr(network, "forward_intermediates") or not hasattr(network, "feature_info"):
        raise UserError(f"{name} cannot be a backbone: timm's network gives no maps of features")
    fixed = network.pretrained_cfg.get("fixed_input_size", False)
    if fixed and not isinstance(network, tuple(ANY_SIZE)):
        raise UserError(
            f"{name} cannot be a backbone: timm's {type(network).__name__} reads images of one "
            "size only; choose a DeiT, ViT, Swin or convolutional student"
        )


def _with_channels(state: dict[str, Tensor], first: str, channels: int) -> dict[str, Tensor]:
    """Spread the first convolution of a grey network over three channels, or add three up."""
    weight = state[f"{first}.weight"]
    if weight.shape[1] == channels:
        return state
    summed = weight.sum(dim=1, keepdim=True)
    return {**state, f"{first}.weight": summed.repeat(1, channels, 1, 1) / channels}


class SimpleFeaturePyramid(nn.Module):
    """A pyramid from the maps of a plain ViT, which are of one size.

    The maps are normalised one by one, since the backbone's final norm is cut off. Several are
    concatenated, and a 1×1 convolution brings them to the width of one. Each level is made from
    the result alone.

    A level of scale 2ⁿ goes through n transposed 2×2 convolutions of stride 2 (LayerNorm and GELU
    between two of them; the width is halved by each), one of scale 1/2 through 2×2 max-pooling;
    then a 1×1 and a 3×3 convolution, each with LayerNorm. Further levels halve the last one by
    subsampling.

    Args:
        in_channels: widths of the maps.
        out_channels: of every level.
        scales: of the levels, largest first: powers of 2.
        num_outs: levels in all.

    Source: Li et al. 2022, Exploring Plain Vision Transformer Backbones for Object Detection, arXiv
    2203.16527, section 3, which has the last block's map alone; the concatenation of several
    blocks' maps before a head is that of Oquab et al. 2023, DINOv2, arXiv 2304.07193, section 7.4.
    """

    def __init__(
        self, in_channels: list[int], out_channels: int, scales: list[float], num_outs: int
    ):
        super().__init__()
        width = in_channels[-1]
        self.norms = nn.ModuleList(LayerNorm2d(own) for own in in_channels)
        several = len(in_channels) > 1
        self.join = nn.Conv2d(sum(in_channels), width, 1) if several else nn.Identity()
        self.levels = nn.ModuleList(_level(width, out_channels, scale) for scale in scales)
        self.further = num_outs - len(scales)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        normalised = [norm(values) for norm, values in zip(self.norms, maps, strict=True)]
        joined = self.join(torch.cat(normalised, dim=1))
        levels = [level(joined) for level in self.levels]
        for _ in range(self.further):
            levels.append(nn.functional.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return tuple(levels)


def _level(width: int, out_channels: int, scale: float) -> nn.Sequential:
    steps: list[nn.Module] = []
    while scale > 1:
        if steps:
            steps += [LayerNorm2d(width), nn.GELU()]
        steps.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width, scale = width // 2, scale / 2
    while scale < 1:
        steps.append(nn.MaxPool2d(kernel_size=2, stride=2))
        scale *= 2
    for kernel in (1, 3):
        steps += [
            nn.Conv2d(width, out_channels, kernel, padding=kernel // 2, bias=False),
            LayerNorm2d(out_channels),
        ]
        width = out_channels
    return nn.Sequential(*steps)
