"""Whether a store is whole: every file of it against the marker that vouches for it, and what is not there.

A marker is a JSON file that holds its own SHA-256 and those of the files it vouches for, other markers among them.
What no marker vouches for is work that is not finished, or somebody else's.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from storage import array_files
from storage.bundles import SUFFIX, read_bundle
from storage.completion import FILES, GONE, groups, harm
from storage.errors import DamagedError, IdentityError, IncompleteError
from storage.files import Folder, split
from storage.findings import Findings, is_elsewhere
from storage.json_text import checked
from storage.layout import FORMAT, STORE, Store, place, safe
from storage.runs import RUN, Run
from storage.shards import MANIFEST, is_in_place
from storage.whereabouts import PROBE, is_same, probes_named, store_root

#: JSON files that are no markers.
NO_MARKERS = ("zarr.json", "wids.json", "store.json")


def verify(url: str, outs: Sequence[str] = (), *, jobs: int = 0) -> Findings:
    """All that is wrong with the store at a URL, and with what runs published from it: those on record, and `outs`.

    Reads all of it, by `jobs` threads. Raises `IncompleteError` where there is no store, `IdentityError` where it is
    one of another format.
    """
    store = Store(Folder.at(url))
    found = Findings(store, {one.path: one for one in store.root.files()})
    if not any(map(_kind, found.files)):
        raise IncompleteError(f"There is no store at {store.root.url}.")
    _check_format(found)
    _check_names(found)
    for path in filter(_is_marker, found.files):
        _read_marker(found, path)
    records = (facts for path, facts in found.markers.items() if _kind(path) == "run" and "out" in facts)
    runs = sorted((Run(**facts) for facts in records), key=lambda run: run.when)
    published = {run.folder(store).url: run for run in runs}
    for run in runs:
        _expect(found, run)
    inside = [store.root.path(path).removesuffix(f"/{RUN}") for path in found.markers if path.endswith(f"/{RUN}")]
    asked = [Folder.at(out).url for out in outs]
    for out in dict.fromkeys([*published, *inside, *asked]):
        _read_published(found, out, published.get(out), is_asked_for=out in asked)
    with ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda path: _check_file(found, path), found.vouching))
        list(pool.map(lambda path: _check_tar(found, path), found.markers))
    _check_unvouched(found)
    for path, said in array_files.of_another(store.root, found.files):
        found.add("torn", path, said)
    for path, said in array_files.outside(store.root, found.files):
        found.add("foreign", path, said)
    return found


def _kind(path: str) -> str:
    of = place(path)
    return of.kind if of else ""


def _is_marker(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith(".json") and name not in NO_MARKERS and _kind(path) != ""


def _check_format(found: Findings) -> None:
    try:
        content = checked(found.store.root.read("store.json"))
    except FileNotFoundError:
        return found.add("missing", "store.json", f"{GONE}, and a run writes it")
    except ValueError as error:
        return found.add("torn", "store.json", f"({error})")
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise IdentityError(f"The store has format {content['format']}, and this version knows format {FORMAT}.")
    if content != STORE:
        found.add("torn", "store.json", f"says {content}, and {STORE} was written")
    return None


def _check_names(found: Findings) -> None:
    for path, one in found.files.items():
        if one.is_partial:
            found.unfinished.append(one)
        elif not _kind(path):
            found.add("foreign", path, f"({one.num_bytes:,} bytes) is nothing that a run writes there")


def _read_marker(found: Findings, path: str) -> None:
    """Takes in what a marker says, and for which files it vouches."""
    folder, name = found.at(path)
    try:
        facts = checked(folder.read(name))
        files: dict[str, Any] | None = facts.pop(FILES, None)
    except (ValueError, AttributeError) as error:  # no JSON, or of something else
        found.add("torn", path, f"({error})")
        return
    found.markers[path] = facts
    if files is None:
        found.unchecked.append(path)
    for relative, was in (files or {}).items():
        beside = f"{path.rpartition('/')[0]}/{relative}"
        found.vouching.setdefault(beside if is_elsewhere(path) else posixpath.normpath(beside), {})[path] = was


def _expect(found: Findings, run: Run) -> None:
    """What a run on record is made of has to be there, finished."""
    of, layers = run.digests, [safe(layer) for layer in run.layers]
    manifest = f"probes/{run.probe}/{MANIFEST}"
    rows = groups(found.markers[manifest]["num_images"]) if manifest in found.markers else []
    folders = [f"embeddings/{of['embeddings']}.done"]
    folders += [f"activations/{of['activations']}.done/{layer}" for layer in layers]
    wanted = [
        manifest,
        *(f"{folder}/{one.name}.json" for folder in folders for one in rows),
        *(f"concepts/{of['concepts']}/{block}.json" for block in run.concept_blocks),
        *(f"labels/{of['labels']}/{layer}/done.json" for layer in layers),
        *(f"details/{of['details']}/{layer}/done.json" for layer in layers if "details" in of),
    ]
    for path in wanted:
        if path not in found.files:
            out = run.shown(found.store)
            found.add("missing", path, f"{GONE}, and the run in {out} was made of what it marks as finished")


def _read_published(found: Findings, out: str, run: Run | None, *, is_asked_for: bool) -> None:
    """Takes in what a run's folder says of itself."""
    folder, path = Folder(out), f"{out}/{RUN}"
    root = found.store.root.url
    if path.startswith(f"{root}/"):
        path = path.removeprefix(f"{root}/")  # read with the rest
    elif folder.exists(RUN):
        _read_marker(found, path)
    if path in found.markers:
        facts = found.markers[path]
        is_recorded = run is not None and run.digest == facts.get("digest")
        if not is_recorded and _is_made_in(found.store, folder, facts):
            found.add(
                "missing", Run.path_of(out, found.store), f"{GONE}, and would say what the run in {out} refers to"
            )
    elif is_asked_for or folder.exists():
        found.add("missing", path, f"{GONE}: no run is published there, or not to its end")
    else:
        found.notes.append(f"{out} {GONE}: the run published there was moved or removed, or is not mounted.")


def _is_made_in(store: Store, out: Folder, facts: dict[str, Any]) -> bool:
    """True if a `run.json` names this store as the one that the run was made in."""
    if not isinstance(facts.get(PROBE), str):
        return False
    return any(is_same(store_root(probe), store.root) for probe in probes_named(out, facts))


def _check_file(found: Findings, path: str) -> None:
    folder, name = found.at(path)
    for marker, was in found.vouching[path].items():
        said = harm(folder, name, was)
        if said == GONE:
            found.add("missing", path, f"{GONE}, and {marker} says that it was written")
        elif said:
            found.add("torn", path, said)


def _check_tar(found: Findings, marker: str) -> None:
    """A tar that is used in place, by the marker of its part."""
    facts = found.markers[marker]
    if "/parts/" not in marker or not is_in_place(facts.get("shard", "")):
        return
    found.inputs.add(facts["shard"])
    try:
        said = harm(*split(facts["shard"]), facts)
    except Exception as error:
        # File systems of all kinds, each with errors of its own.
        found.notes.append(f"The tar {facts['shard']}, used in place, cannot be reached: {error}")
        return
    if said:
        found.add("missing" if said == GONE else "torn", facts["shard"], f"{said}; it is used in place: put it back")


def _check_unvouched(found: Findings) -> None:
    """Files that are ours by name. Of these, bundles can tell by themselves whether they are whole."""
    for path, one in found.files.items():
        name = path.rpartition("/")[2]
        if _kind(path) in ("", "lease") or _is_marker(path) or path in found.vouching or name in NO_MARKERS:
            continue
        found.unfinished.append(one)
        if name.endswith(SUFFIX):
            try:
                read_bundle(found.store.root, path.removesuffix(SUFFIX))
            except DamagedError:
                found.add("torn", path, "does not hold what its SHA-256 is of")
