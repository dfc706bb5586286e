"""mmdet made ready: imported before anything of mmdet is, which imports mmcv's operators."""

from benchmarks.detection import (
    operators,
    requirements,  # noqa: F401 (says what is missing)
)

operators.install()
