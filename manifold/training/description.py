"""What a run was, read from the live objects and not from the flags; kept in its run.json."""

import functools
import platform
from importlib.metadata import version
from typing import Any

import torch

from manifold.models import count_parameters
from manifold.training import host
from manifold.training.cohort import Member
from manifold.training.data import Mixer

installed = functools.cache(version)  # reads a file, and each member of a cohort asks
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "safetensors")


def describe_member(member: Member, mixer: Mixer, transform: Any) -> dict[str, Any]:
    """The recipe and the method as the objects hold them when training ends."""
    distiller = member.distiller
    student = distiller.get_eval_model()
    plain = (bool, int, float, str, type(None), list, tuple, dict)
    return {
        "student": type(student).__name__,
        "parameters": count_parameters(student),
        "auxiliary_parameters": count_parameters(distiller.auxiliary),
        "distiller": f"{type(distiller).__module__}:{type(distiller).__name__}",
        "distiller_settings": {
            key: value
            for key, value in vars(distiller).items()
            if isinstance(value, plain)
            and not key.startswith("_")
            and key not in ("training", "student_layouts", "teacher_layouts")
        }
        | {"layers": vars(distiller.layers)},
        "token_layouts": {
            "student": {str(k): str(v) for k, v in distiller.student_layouts.items()},
            "teacher": {str(k): str(v) for k, v in distiller.teacher_layouts.items()},
        },
        "optimizer": {
            "class": type(member.optimizer).__name__,
            "groups": [
                {key: value for key, value in group.items() if isinstance(value, plain)}
                | {"params": len(group["params"])}
                for group in member.optimizer.param_groups
            ],
        },
        "scheduler": {
            "class": type(member.scheduler).__name__,
            **{
                key: value
                for key, value in vars(member.scheduler).items()
                if isinstance(value, plain) and not key.startswith("_")
            },
        },
        "clip_norm": member.clip_norm,
        "ema_decay": distiller.get_trainable_module(ema=True).decay,
        "drop_path": [
            module.drop_prob for module in student.modules() if type(module).__name__ == "DropPath"
        ],
        "augmentation": [str(step) for step in transform.transforms],
        "mixing": mixer.mixup and vars(mixer.mixup),
        "label_smoothing": mixer.smoothing,
    }


def describe_environment(device: torch.device, further: tuple[str, ...] = ()) -> dict[str, Any]:
    """Versions (of ``further`` packages too), commit and hardware."""
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in (*PACKAGES, *further)},
        "git_commit": host.commit(),
        "git_dirty": host.is_changed(),
        "platform": platform.platform(),
        "processor": host.processor(),
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "threads": torch.get_num_threads(),
    }
