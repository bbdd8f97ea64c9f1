"""JSON as text, with its own SHA-256 in it: a file of facts that tells whether it is as it was written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

#: Last key: SHA-256 of the text that there would be without it.
CHECKSUM = "checksum"
END = b"\n}\n"
_SHA256 = re.compile("[0-9a-f]{64}")


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON as people read it, keys in the order given."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def with_checksum(value: Mapping[str, Any]) -> bytes:
    """The same with a checksum as its last key; there has to be another."""
    text = as_json(value)
    return text.removesuffix(END) + _last_line(text)


def checked(data: bytes) -> Any:
    """JSON without its checksum. Raises `ValueError` where it has another; older versions wrote none."""
    value = json.loads(data)
    if not isinstance(value, dict) or not value:
        return value
    name, last = list(value.items())[-1]
    if not (name == CHECKSUM or (isinstance(last, str) and _SHA256.fullmatch(last))):
        return value  # a checksum whose name is damaged is one too
    head = data[: -len(_last_line(b""))]
    if head + _last_line(head + END) != data:
        raise ValueError(f"its content is not what was written: the {CHECKSUM} in it is another")
    del value[CHECKSUM]
    return value


def _last_line(text: bytes) -> bytes:
    return f',\n "{CHECKSUM}": "{hashlib.sha256(text).hexdigest()}"'.encode() + END
