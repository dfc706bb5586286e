"""Networks by timm name, and weights that are read without running code from the file."""

import re
import sys
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath, resample_abs_pos_embed
from timm.models import load_state_dict
from torch import Tensor, nn

import manifold.students  # noqa: F401 (timm's registry has them from here on)
from manifold.errors import UserError
from manifold.files import write_atomic
from manifold.settings import Model, suggest

HEADS = ("head.weight", "head.fc.weight", "fc.weight")  # the classifiers of timm's networks


def create_model(
    model: Model, image_shape: tuple[int, int, int], classes: int, drop_path: float = 0.0
) -> nn.Module:
    """Create a timm model for images of ``image_shape`` (channels, height, width).

    A model whose arguments say ``num_classes: 0`` has no classifier, whatever the classes.

    Without ``drop_path`` there is no stochastic depth but what the model's arguments ask for: timm
    gives Swin a rate of 0.1 where none is said.

    Raises:
        UserError: timm does not know the name, or refuses the arguments; or they leave no block.
    """
    if not timm.is_model(model.name):
        raise UserError(
            f"unknown timm model {model.name!r}.{suggest(model.name, timm.list_models())} "
            f"timm {timm.__version__} lists its models with timm.list_models()"
        )
    arguments = {"in_chans": image_shape[0], "num_classes": classes, **model.arguments}
    if timm.get_pretrained_cfg_value(model.name, "fixed_input_size"):
        arguments["img_size"] = image_shape[1:]
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    try:
        network = timm.create_model(model.name, **arguments)
    except Exception as error:  # timm's networks check little, and fail in many ways
        raise UserError(
            f"timm model {model.name!r} refuses {arguments}: {type(error).__name__}: {error}"
        ) from error
    blocks = getattr(network, "blocks", None)
    if isinstance(blocks, nn.Sequential | nn.ModuleList) and not len(blocks):
        raise UserError(f"timm model {model.name!r} with {arguments} has no block; raise its depth")
    _check_patches(network, model.name, image_shape)
    if "drop_path_rate" not in arguments:
        for module in network.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
    return network


def _check_patches(network: nn.Module, name: str, image_shape: tuple[int, int, int]) -> None:
    """Refuse images that patches do not fill: timm would leave the last rows and columns unseen.

    Raises:
        UserError: names both sizes.
    """
    size = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if isinstance(size, tuple) and any(s % p for s, p in zip(image_shape[1:], size, strict=True)):
        height, width = image_shape[1:]
        raise UserError(
            f"timm model {name!r} cuts patches of {size[0]}×{size[1]} pixels, and images of "
            f"{height}×{width} are no multiple of that; change data.image_size or patch_size"
        )


def save_state(state: dict, path: Path) -> None:
    """Write a training's state.

    Raises:
        UserError: the disk is full.
    """

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # of a path, torch would not say why it cannot be written
            torch.save(state, file)

    write_atomic(path, write)


def read_state(path: Path, device: torch.device, keys: tuple[str, ...]) -> dict:
    """Read a training's state.

    Raises:
        UserError: the file is damaged, or lacks one of the keys.
    """
    try:
        if broken := zipfile.ZipFile(path).testzip():  # torch.load does not look at checksums
            raise ValueError(f"the checksum of {broken} is wrong")
        state = torch.load(path, map_location=device, weights_only=True)
        if missing := [key for key in keys if key not in state]:
            raise KeyError(missing[0])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"{path} is damaged: not a checkpoint of this project ({error}); delete it to start "
            "this cohort again"
        ) from error
    return state


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors, aside and then renamed."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomic(path, lambda partial: save_file(state, partial))


def read_weights(path: Path, what: str) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a checkpoint as torch.save writes it.

    A checkpoint may hold them under ``model`` or ``state_dict``, with ``module.`` prefixes, beside
    an ``argparse.Namespace`` and anything else that torch reads with ``weights_only=True``. An EMA
    copy in it is passed by, as the reference's evaluation does.

    Args:
        what: names the network in the messages.

    Raises:
        UserError: the file is missing or damaged, holds anything that would run code, or no
            tensors by name.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file for {what}; correct its path, or set the teacher's weights to "
            "'train' to train it here"
        )
    try:
        state = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # torch and safetensors raise many, undocumented, kinds
        if asked := re.search(r"GLOBAL (\S+)", str(error.__cause__)):
            raise UserError(
                f"{path} is refused: it asks for {asked[1]}, and loading {what} must not run code "
                "from a file; ask its author for a .safetensors file"
            ) from error
        raise UserError(
            f"{path} is damaged: not a safetensors file and not a checkpoint ({error}); fetch it "
            "again, or set the teacher's weights to 'train' to train it here"
        ) from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path}: expected tensors by name for {what}, at the top or under 'model' or "
            f"'state_dict'; got {', '.join(map(str, list(state)[:5])) or 'nothing'}"
        )
    return state


def classes_of(state: dict[str, Tensor]) -> int | None:
    """The number of classes that a network's weights are for; None where they have no head."""
    heads = (state[name].shape for name in HEADS if name in state and state[name].ndim)
    return next((shape[0] for shape in heads), None)


def load_weights(model: nn.Module, path: Path, what: str) -> None:
    """Load a file's weights into ``model``; ``what`` names the network in the messages.

    Names of other code bases are translated, and position embeddings of another image size are
    resampled, both by timm.

    Raises:
        UserError: the file is missing, damaged, not weights alone, of another architecture or class
            count, or holds a value that is not finite.
    """
    state = read_weights(path, what)
    classes = classes_of(state)
    if classes not in (None, model.num_classes):
        raise UserError(
            f"{path}: {what} has {classes} classes, the data set has {model.num_classes}; set the "
            "teacher's weights to 'train' to train one for this data"
        )
    own = model.state_dict()
    fitted = _resample_positions(model, state)
    if wrong := _differences(own, fitted):
        fitted = _translate(model, fitted)
        if _differences(own, fitted):
            raise UserError(
                f"{path} does not fit {what} ({type(model).__name__}), {len(wrong)} tensors "
                f"differ: {'; '.join(wrong[:3])}; make the model's name and arguments those of the "
                "file"
            )
    broken = next((name for name, value in fitted.items() if not is_finite(value)), None)
    if broken:
        raise UserError(f"{path}: {what} has values that are not finite in {broken}; train it anew")
    model.load_state_dict(fitted)


def _differences(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    return [
        f"{name}: expected {tuple(own[name].shape) if name in own else 'nothing'}, "
        f"got {tuple(state[name].shape) if name in state else 'nothing'}"
        for name in sorted(own.keys() | state.keys())
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]


def _resample_positions(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring the position embedding (1, prefix + patches, D) to the model's grid of patches."""
    own, given = getattr(model, "pos_embed", None), state.get("pos_embed")
    if own is None or given is None or own.shape == given.shape or given.ndim != 3:
        return state
    if (given.shape[0], given.shape[2]) != (own.shape[0], own.shape[2]):
        return state
    height, width = model.patch_embed.grid_size
    prefix = own.shape[1] - height * width
    side = round(max(0, given.shape[1] - prefix) ** 0.5)
    if side < 1 or side * side + prefix != given.shape[1]:  # another count of prefix tokens
        return state
    resampled = resample_abs_pos_embed(given, [height, width], num_prefix_tokens=prefix)
    return {**state, "pos_embed": resampled}


def _translate(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the original code bases by timm's own filter for the architecture.

    The filters also resample patch embeddings and relative positions; weights of another patch or
    window size are another network here, and stay as they are.
    """
    module = sys.modules[type(model).__module__]
    if hasattr(module, "checkpoint_filter_fn"):
        translate = lambda: module.checkpoint_filter_fn(state, model)  # noqa: E731
    elif hasattr(module, "_filter_fn"):  # timm's regnet.py
        translate = lambda: module._filter_fn(state)  # noqa: E731
    else:
        return state
    try:
        translated = translate()
    except Exception:  # a filter meets weights that it was not written for in many ways
        return state
    given = {id(value) for value in state.values()}
    return translated if all(id(value) in given for value in translated.values()) else state


def is_finite(values: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity."""
    return bool(values.isfinite().all())


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
