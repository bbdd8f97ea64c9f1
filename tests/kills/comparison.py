"""What a finished run left, as a mapping that two runs must agree on."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

#: Fields of JSON files that say how long something took, by file; all else is the same to the byte.
MAY_DIFFER = {
    r"store/probes/\w+/manifest\.json": ("seconds",),
    r"store/probes/\w+/parts/\d+\.json": ("seconds",),
    r"store/(embeddings|activations)/\w+\.done/.*\.json": ("seconds",),
    r"store/labels/\w+/[^/]+/(found|done)\.json": ("seconds",),
    r"store/details/\w+/[^/]+/done\.json": ("seconds",),
    r"store/runs/\w+\.json": ("when",),
    # A run that goes on names the passes over images that it made itself.
    r"out/(.*/)?run\.json": ("seconds", "passes"),
}
#: The same in the report; the digest that `run.json` has of it must be that of the file.
SECONDS_OF_WORK = re.compile(rb"\s*<div><dt>(Seconds of work|Throughput)</dt><dd>[^<]*</dd></div>")
REPORT = "report/index.html"
#: Endings of files that a killed process may leave, and nobody takes for anything.
LEFT = (".partial", ".lock")


def finished(folder: Path) -> dict[str, str]:
    """Digests of all files of a store and what it published, and of all Zarr arrays as they are read."""
    found = {}
    for path in sorted((*(folder / "store").rglob("*"), *(folder / "out").rglob("*"))):
        name = str(path.relative_to(folder))
        if path.suffix == ".zarr":
            found |= _arrays(path, name)
        elif path.is_file() and path.suffix not in LEFT:
            found[name] = hashlib.sha256(_content(path, name)).hexdigest()
    return found


def left_behind(folder: Path) -> list[Path]:
    """Files of processes that were killed: what they were writing, and leases that end with their holder."""
    return [path for path in folder.rglob("*") if path.suffix in LEFT]


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What is not the same, and how."""
    return (
        [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
        + [f"{name} should not be there" for name in sorted(found.keys() - expected.keys())]
        + [f"{name} differs" for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]]
    )


def _content(path: Path, name: str) -> bytes:
    data = path.read_bytes()
    if path.as_posix().endswith(REPORT):
        return SECONDS_OF_WORK.sub(b"", data)
    if path.suffix != ".json":
        return data
    fields = next((fields for pattern, fields in MAY_DIFFER.items() if re.fullmatch(pattern, name)), ())
    facts: dict[str, Any] = {
        key: value for key, value in json.loads(data).items() if key not in (*fields, "checksum")
    }
    # What it vouches for is compared by itself; here, that it vouches for what is there.
    for file, was in facts.get("files", {}).items():
        there = (path.parent / file).read_bytes()
        is_whole = was == {"num_bytes": len(there), "sha256": hashlib.sha256(there).hexdigest()}
        facts["files"][file] = "as it is" if is_whole else was
    return json.dumps(facts).encode()


def _arrays(path: Path, name: str) -> dict[str, str]:
    with warnings.catch_warnings():
        # Zarr's own partial files lie among the groups.
        warnings.filterwarnings("ignore", r"Object at \S+\.partial is not recognized", ZarrUserWarning)
        members = zarr.open_group(path, mode="r", use_consolidated=False).members(max_depth=None)
    return {
        f"array {member} of {name}": hashlib.sha256(np.asarray(array[...]).tobytes()).hexdigest()
        for member, array in members
        if isinstance(array, zarr.Array)
    }
