"""Files of Zarr arrays that no marker can tell of: groups under another's name, shards outside an array."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from storage.files import Folder
from storage.identity import digest_of

_GROUP = re.compile(r"(?P<kind>\w+)/(?P<digest>[0-9a-f]{20})(?:\.summaries)?\.zarr/zarr\.json")
_SHARD = re.compile(r"(?P<array>.+\.zarr/.+)/c/(?P<numbers>\d+(?:/\d+)*)")


def of_another(root: Folder, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Groups that hold another identity than that whose digest they are named by, with what is wrong."""
    for path in paths:
        if not (name := _GROUP.fullmatch(path)):
            continue
        try:
            identity = json.loads(root.read(path))["attributes"]["identity"]
            digest = identity["labels"] if name["kind"] == "similarities" else digest_of(identity)
        except (ValueError, LookupError, TypeError) as error:
            yield path, f"holds no identity ({error})"
            continue
        if digest != name["digest"]:
            yield path, f"holds the identity of {digest}, and is named {name['digest']}"


def outside(root: Folder, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Shards with numbers that their array does not have, with what is wrong."""

    @lru_cache
    def shards(array: str) -> tuple[int, ...] | None:
        try:
            of: dict[str, Any] = json.loads(root.read(f"{array}/zarr.json"))
            sides = of["chunk_grid"]["configuration"]["chunk_shape"]
            return tuple(-(-length // side) for length, side in zip(of["shape"], sides, strict=True))
        except (OSError, ValueError, LookupError, TypeError):
            return None  # found elsewhere to be torn, or missing

    for path in paths:
        if not (name := _SHARD.fullmatch(path)):
            continue
        numbers, there = tuple(map(int, name["numbers"].split("/"))), shards(name["array"])
        if there is not None and not (
            len(numbers) == len(there) and all(number < most for number, most in zip(numbers, there, strict=True))
        ):
            yield path, f"is shard {numbers}, and the array has {there} shards"
