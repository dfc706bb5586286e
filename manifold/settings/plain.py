"""Settings as plain JSON types, and their hash."""

import dataclasses
import hashlib
import json
from typing import Any

from pydantic import BaseModel


def to_plain(value: Any) -> Any:
    """Return models, dataclasses, mappings and lists as plain JSON types."""
    if isinstance(value, BaseModel):
        return {key: to_plain(getattr(value, key)) for key in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: to_plain(item) for key, item in vars(value).items()}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a configuration."""
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
