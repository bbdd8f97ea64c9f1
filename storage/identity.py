"""Identity is a digest of content and parameters, never a file name.

Every stored thing carries the mapping its digest was made of, so that a reader can check it and a person can
see what it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from storage.errors import IdentityError

#: Hexadecimal digits of a digest: 80 bits, so that two of a billion stored things collide by chance of 1e-6.
DIGEST_LENGTH = 20

#: Stands in messages for a value that is not there, which null is not.
ABSENT = "(absent)"

#: JSON values by name. What the digest is made of must survive a round trip through JSON unchanged.
Identity = Mapping[str, Any]


def canonical(identity: Identity) -> str:
    """The one JSON text of an identity: sorted keys, no spaces, no NaN."""
    return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(identity: Identity) -> str:
    """Digest of an identity, `DIGEST_LENGTH` hexadecimal digits of SHA-256."""
    return digest_of_bytes(canonical(identity).encode())


def digest_of_bytes(data: bytes) -> str:
    """Digest of bytes, cut like `digest_of`."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]


def check(found: Identity, wanted: Identity, where: str) -> None:
    """Raises `IdentityError` naming each difference unless both are the same."""
    if canonical(found) == canonical(wanted):
        return
    differences = [
        f"{key}: stored {found.get(key, ABSENT)!r}, wanted {wanted.get(key, ABSENT)!r}"
        for key in sorted({*found, *wanted})
        if canonical({key: found.get(key, ABSENT)}) != canonical({key: wanted.get(key, ABSENT)})
    ]
    raise IdentityError(
        f"{where} was made from something else ({'; '.join(differences)}). "
        "It was copied or edited by hand: move it away and run again, or use another --store."
    )
