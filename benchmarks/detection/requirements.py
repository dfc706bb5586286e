"""The packages of the extra "detection": imported before any of them is, to say what is missing."""

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
