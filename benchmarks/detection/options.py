"""The keys of ``detection.options``, held to what reads them: a misspelt one is an error.

mmengine makes what it does not find, so that ``train_cgf.max_epochs`` would change nothing. A key
is known if the configuration has it, or if the class that its section is built from takes it.
"""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import inspect
from functools import cache
from typing import Any

import mmdet.registry
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from manifold.errors import UserError
from manifold.settings import suggest

Path = tuple[str, ...]
DELETE = "_delete_"  # mmengine's word for a mapping that replaces another
# What a class does not say of itself: mmengine reads these before it builds one.
OF_A_WRAPPER = {"constructor", "paramwise_cfg"}
OF_A_SCHEDULER = {"convert_to_iter_based"}
SECTIONS: dict[Path, set[str]] = {
    ("env_cfg",): {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    ("optim_wrapper", "clip_grad"): {
        *("type", "max_norm", "norm_type", "clip_value", "error_if_nonfinite", "foreach")
    },
    ("optim_wrapper", "paramwise_cfg"): {
        *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "flat_decay_mult"),
        *("dwconv_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate"),
    },
}
FREE = {("default_hooks",), ("optim_wrapper", "paramwise_cfg", "custom_keys")}  # names of one's own
LOADERS = ("train_dataloader", "test_dataloader")
OF_A_LOADER = {"sampler", "batch_sampler", "dataset", "collate_fn", "num_batch_per_epoch"}
OF_A_RUNNER = {"necks", "model_wrapper_cfg", "find_unused_parameters", "sync_bn", "compile"}
# What the student, the data and the seed decide; see configuration.py.
DECIDED = {
    *(("randomness",), ("experiment_name",), ("work_dir",), ("resume",), ("launcher",)),
    ("load_from",),
    *(("model", "neck"), ("model", "backbone", "type"), ("model", "backbone", "name")),
    *(("model", "backbone", "arguments"), ("model", "backbone", "image_shape")),
    *(("model", "backbone", "weights"), ("model", "backbone", "channels")),
    ("model", "backbone", "patch_embedding_alone"),
    *(("val_dataloader",), ("val_evaluator",), ("val_cfg",), ("train_cfg", "val_begin")),
    *(
        ("model", "data_preprocessor", key)
        for key in ("mean", "std", "bgr_to_rgb", "pad_mask", "pad_size_divisor")
    ),
    *(
        (loader, "dataset", key)
        for loader in LOADERS
        for key in ("data_root", "metainfo", "ann_file", "data_prefix", "indices", "test_mode")
    ),
    *(("test_evaluator", key) for key in ("ann_file", "metric", "outfile_prefix", "format_only")),
}
DECIDED_IN_MODELS = {"num_classes"}  # in any part of one
# What no step fails on: a norm below 0 turns gradients round, a threshold of 2 keeps no box.
RANGES = {
    **{"score_thr": (0, 1), "iou_threshold": (0, 1), "max_norm": (1e-6, 1e6)},
    **{"lr": (1e-12, 1000), "loss_weight": (0, 1e6)},
}
COUNTS = {"max_per_img", "nms_pre"}  # of boxes that are kept; -1 is mmdet's word for all of them
WAY_OUT = (
    "what mmdet knows and this check does not can stand in a configuration file of your own, one "
    "more of detection.detectors"
)


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """Options as mappings in mappings: ``a.b: 1`` is ``a: {b: 1}``.

    Raises:
        UserError: a key is a mapping in one option, and none in another.
    """
    whole: dict[str, Any] = {}
    for key, value in options.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        whole = _laid_over(whole, value)
    return whole


def _laid_over(whole: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """``merge``, but that a mapping with ``_delete_`` replaces what options before it said."""
    found = dict(whole)
    for key, inner in value.items():
        below = found.get(key)
        joins = isinstance(inner, dict) and isinstance(below, dict) and not inner.get(DELETE)
        found[key] = _laid_over(below, inner) if joins else inner
    return found


def fitting(
    options: dict[str, Any], configurations: dict[str, dict[str, Any]], detector: str
) -> dict[str, Any]:
    """The part of nested options that a detector's configuration knows.

    Args:
        configurations: of all detectors, by their names. What one of them knows is none's mistake.

    Raises:
        UserError: names an option that none of them knows, and what was probably meant.
    """
    faults: dict[str, dict[Path, str]] = {}
    kept: dict[str, Any] = {}
    for name, configuration in configurations.items():
        faults[name] = {}
        laid = _known_part(configuration, options, (), faults[name])
        if name == detector:
            kept = laid
    for leaf in _leaves(options, ()):
        found = [
            max((p for p in own if leaf[: len(p)] == p), key=len, default=None)
            for own in faults.values()
        ]
        if None not in found:
            path, own = max(zip(found, faults.values(), strict=True), key=lambda f: len(f[0]))
            raise UserError(f"detection.options: {'.'.join(leaf)}: {own[path]}")
    return kept


def _known_part(node: Any, given: dict[str, Any], at: Path, faults: dict[Path, str]) -> dict:
    """What of ``given`` can be laid over the node of a configuration; the rest are faults."""
    kept: dict[str, Any] = {}
    for key, value in given.items():
        path = (*at, key)
        if fault := _fault_of(node, key, given, path):
            faults[path] = fault
            continue
        if isinstance(value, dict) and value.get(DELETE) and (fault := _fault_inside(value, path)):
            faults[path] = fault
            continue
        below = _below(node, key)
        if isinstance(value, dict) and isinstance(below, (dict, list)) and not value.get(DELETE):
            value = _known_part(below, value, path, faults)
            if not value:
                continue
        kept[key] = value
    return kept


def _fault_inside(given: dict[str, Any], at: Path) -> str | None:
    """What of a section that replaces another is decided elsewhere, or out of its range."""
    for key, value in given.items():
        path = (*at, key)
        if fault := _fault_of_value(key, value, path):
            return f"{'.'.join(path)}: {fault}"
        if isinstance(value, dict) and (fault := _fault_inside(value, path)):
            return fault
    return None


def _below(node: Any, key: str) -> Any:
    return node[int(key)] if isinstance(node, list) else node.get(key)


def _fault_of(node: Any, key: str, given: dict[str, Any], path: Path) -> str | None:
    """Why nothing would read a key of a node, or nothing."""
    if isinstance(node, list):
        if key.isdigit() and int(key) < len(node):
            return None
        return f"{'.'.join(path[:-1])} is a list of {len(node)}, counted from 0; got {key!r}"
    if key == DELETE:
        return None
    if fault := _fault_of_value(key, given[key], path):
        return fault
    known, is_all = _keys_of(path[:-1], node, given)
    if key in known or (len(path) > 1 and key in node):
        return None
    meant = suggest(key, {*known, *(node if len(path) > 1 else ())})
    if not is_all and not meant:
        return None
    if len(path) == 1 and key in node:
        return (
            "a variable of the configuration file, which was read with it; set what it stands for, "
            "as train_dataloader.dataset.pipeline.2.scale"
        )
    where = ".".join(path[:-1]) or "a configuration"
    return (
        f"nothing reads a key {key!r} of {where}.{meant} Known: {', '.join(sorted(known))}; "
        f"{WAY_OUT}"
    )


def _fault_of_value(key: str, value: Any, path: Path) -> str | None:
    """Why no value, or not this one, may be given to a key; or nothing."""
    if path in DECIDED or (path[0] == "model" and key in DECIDED_IN_MODELS):
        return "the student, the data and the seeds decide it; leave it out"
    return _out_of_range(key, value)


def _out_of_range(key: str, value: Any) -> str | None:
    """Why no training can use the value of a key, or nothing."""
    if key in COUNTS:
        is_count = type(value) is int and (value == -1 or value > 0)
        return None if is_count else f"must be 1 or more, or -1 for all; got {value!r}"
    if key not in RANGES:
        return None
    low, high = RANGES[key]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and low <= value <= high:
        return None
    return f"must be a number from {low:g} to {high:g}; got {value!r}"


def _keys_of(at: Path, node: dict[str, Any], given: dict[str, Any]) -> tuple[set[str], bool]:
    """The keys of a section, and whether these are all that it may have."""
    if at == ():
        decided = {path[0] for path in DECIDED if len(path) == 1}
        return _parameters_of(Runner)[0] - {"cfg"} - decided | OF_A_RUNNER, True
    if at in FREE:
        return set(node), False
    if at in SECTIONS:
        return SECTIONS[at], True
    if at[-1] in LOADERS:
        return _parameters_of(DataLoader)[0] | OF_A_LOADER, True
    kind = given.get("type", node.get("type"))
    if kind is None:
        return set(node), True
    named, is_all = _parameters_of(_class_of(kind))
    beside = OF_A_WRAPPER if at == ("optim_wrapper",) else set()
    beside |= OF_A_SCHEDULER if at[0] == "param_scheduler" else set()
    return named | beside | {"type"}, is_all


@cache
def _class_of(kind: Any) -> Any:
    """The class, or function, that a section's ``type`` names; None where it is unknown."""
    if not isinstance(kind, str):
        return kind
    if kind == OptimWrapper.__name__:
        return OptimWrapper
    registries = [each for each in vars(mmdet.registry).values() if isinstance(each, Registry)]
    return next((found for each in registries if (found := each.get(kind)) is not None), None)


@cache
def _parameters_of(kind: Any) -> tuple[set[str], bool]:
    """The names of what a class takes when it is made, and whether these are all."""
    if not isinstance(kind, type):
        kinds = [kind] if callable(kind) else []
    else:
        kinds = [each.__init__ for each in kind.__mro__ if "__init__" in vars(each)]
    names: set[str] = set()
    for each in kinds:
        parameters = inspect.signature(each).parameters.values()
        open_ends = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names |= {p.name for p in parameters if p.kind not in open_ends} - {"self"}
        if all(p.kind != inspect.Parameter.VAR_KEYWORD for p in parameters):
            return names, True
    return names, False


def _leaves(given: dict[str, Any], at: Path) -> list[Path]:
    """The paths of all values in mappings of mappings."""
    found = []
    for key, value in given.items():
        is_section = isinstance(value, dict) and value and not value.get(DELETE)
        found += _leaves(value, (*at, key)) if is_section else [(*at, key)]
    return found
