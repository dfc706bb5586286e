"""Networks by timm name, and weights that are read without running code from the file."""

from pathlib import Path

import timm
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from manifold.config import Model, suggest
from manifold.errors import UserError
from manifold.files import write_atomic


def create_model(
    model: Model, image_shape: tuple[int, int, int], classes: int, drop_path: float = 0.0
) -> nn.Module:
    """Create a timm model for images of ``image_shape`` (channels, height, width).

    Raises:
        UserError: timm does not know the name, or refuses the arguments.
    """
    if not timm.is_model(model.name):
        raise UserError(
            f"unknown timm model {model.name!r}.{suggest(model.name, timm.list_models())} "
            f"timm {timm.__version__} lists its models with timm.list_models()"
        )
    arguments = dict(in_chans=image_shape[0], num_classes=classes, **model.arguments)
    if timm.get_pretrained_cfg_value(model.name, "fixed_input_size"):
        arguments["img_size"] = image_shape[1:]
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    try:
        return timm.create_model(model.name, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"timm model {model.name!r} refuses {arguments}: {error}") from error


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors, aside and then renamed."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomic(path, lambda partial: save_file(state, partial))


def load_weights(model: nn.Module, path: Path, what: str) -> None:
    """Load safetensors into ``model``; ``what`` names the network in the messages.

    Raises:
        UserError: the file is missing, damaged, of another architecture or class count, or holds
            a value that is not finite.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file for {what}; correct its path, or set the teacher's weights to "
            "'train' to train it here"
        )
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own, undocumented, kinds
        raise UserError(
            f"{path} is damaged: not a safetensors file ({error}); fetch it again, or set the "
            "teacher's weights to 'train' to train it here"
        ) from error
    own = model.state_dict()
    head = next((n for n in state if n in own and n.startswith("head") and "weight" in n), None)
    if head and state[head].shape[0] != own[head].shape[0]:
        raise UserError(
            f"{path}: {what} has {state[head].shape[0]} classes, the data set has "
            f"{own[head].shape[0]}; set the teacher's weights to 'train' to train one for this data"
        )
    wrong = [
        f"{name}: expected {tuple(own[name].shape) if name in own else 'nothing'}, "
        f"got {tuple(state[name].shape) if name in state else 'nothing'}"
        for name in sorted(own.keys() | state.keys())
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit {what} ({type(model).__name__}), {len(wrong)} tensors differ: "
            f"{'; '.join(wrong[:3])}; make the model's name and arguments those of the file"
        )
    broken = next((name for name, value in state.items() if not is_finite(value)), None)
    if broken:
        raise UserError(f"{path}: {what} has values that are not finite in {broken}; train it anew")
    model.load_state_dict(state)


def is_finite(values: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity."""
    return bool(values.isfinite().all())


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
