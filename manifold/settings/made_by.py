"""Whether code that made something is old: other than now stands, and not to be kept.

A run records the hash of its sources when it starts. Where they have been edited since, the key
``stale`` decides: its cells are kept, and tables tell of it, or they are made anew. What the user's
own files have shaped is always made anew when they have changed: they are what the user is working
on.
"""

import json
import re
from pathlib import Path
from typing import Any

from manifold.settings.sources import AND_SUITE, job_hash, source_hash, users_part


def is_old_code(experiment: Any, made_by: Any, now: str) -> bool:
    """Whether what code of one hash made is to be made anew, since it now has another.

    Args:
        made_by: as a record says it; what is no hash says nothing.
    """
    if made_by == now:
        return False
    known = made_by if is_hash(made_by) else ""
    is_users_changed = AND_SUITE in now and users_part(known) != users_part(now)
    return is_users_changed or experiment.stale == "retrain"


def is_outdated(experiment: Any, distiller: str, made_by: Any, maker: str | None = None) -> bool:
    """Whether what sources of this hash made of a method is to be made anew for its code.

    Args:
        maker: as ``source_hash`` has it.
    """
    return is_old_code(experiment, made_by, source_hash(distiller, maker))


def is_outdated_job(experiment: Any, module: str, made_by: Any) -> bool:
    """Whether what sources of this hash made of a study's job is to be made anew for its code."""
    return is_old_code(experiment, made_by, job_hash(module))


def is_hash(found: Any) -> bool:
    """Whether it is a hash of code, and not what a user's record calls so."""
    return isinstance(found, str) and bool(re.fullmatch(r"[0-9a-f]{64}(\+[0-9a-f]{64})?", found))


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
