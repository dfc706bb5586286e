"""Detectors on the students' backbones, by mmdet; nothing outside this package imports it."""

from importlib.util import find_spec

from manifold.errors import UserError

_missing = [
    name for name in ("mmengine", "mmcv", "mmdet", "pycocotools") if find_spec(name) is None
]
if _missing:
    raise UserError(
        f"detection needs {', '.join(_missing)}, which cannot be imported; install what it needs "
        "with: pip install '.[detection]'"
    )

# before anything here imports mmdet, which imports mmcv's operators
from benchmarks.detection import operators  # noqa: E402

operators.install()
