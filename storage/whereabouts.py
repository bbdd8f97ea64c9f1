"""Where a published run and its store lie, as each says of the other.

A folder is named twice: by its path from the one that names it, which holds where both are moved together, and by its
URL, which holds where the one that names it is moved alone.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.errors import IncompleteError
from storage.files import Folder, is_local
from storage.layout import Store
from storage.shards import MANIFEST

#: Keys of `run.json`: the store by its URL, and by its path from the run's folder (null where there is no such path).
STORE, STORE_FROM_HERE = "store", "store_from_here"
#: The same of the working directory, in which relative paths of the spec mean what they do.
FOLDER, FOLDER_FROM_HERE = "folder", "folder_from_here"
#: Keys of what lies in the store, by its path from there; older versions wrote URLs, and no store.
PROBE, SIMILARITIES = "probe", "similarities"


def relative(url: str, base: str) -> str | None:
    """Path of one folder from another; None where they have nothing in common but the root or the protocol."""
    (protocol, path), (other, start) = _split(url), _split(base)
    if protocol != other or path.split("/")[1] != start.split("/")[1]:
        return None
    return posixpath.relpath(path, start)


def joined(base: Folder, path: str) -> Folder:
    """The folder at a path from another. A whole path or URL is that folder itself."""
    if "://" in path or path.startswith("/"):
        return Folder(path)
    protocol, start = _split(base.url)
    whole = posixpath.normpath(f"{start}/{path}")
    return Folder(f"{protocol}://{whole[1:]}" if protocol else whole)


def is_same(one: Folder, other: Folder) -> bool:
    """True if two URLs name one folder; of this machine's, links are followed."""
    if one.is_local and other.is_local:
        return Path(one.url).resolve() == Path(other.url).resolve()
    return one.url.rstrip("/") == other.url.rstrip("/")


def references(out: Folder, store: Store, probe: str) -> dict[str, Any]:
    """Where the store and the probe set of a run are, and where it works, as the `run.json` in `out` says it."""
    working = str(Path.cwd())
    return {
        FOLDER: working,
        FOLDER_FROM_HERE: relative(working, out.url),
        STORE: store.root.url,
        STORE_FROM_HERE: relative(store.root.url, out.url),
        PROBE: f"probes/{probe}",
    }


def moved_to(out: Folder, facts: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """What the `run.json` in `out` says, with the store where it is now."""
    kept = facts.get(SIMILARITIES)
    return {
        **facts,
        STORE: store.root.url,
        STORE_FROM_HERE: relative(store.root.url, out.url),
        PROBE: f"probes/{probe_name(facts)}",
        SIMILARITIES: f"{SIMILARITIES}/{str(kept).rpartition('/')[2]}" if kept else None,
    }


def probes_named(out: Folder, facts: Mapping[str, Any]) -> list[Folder]:
    """Folders in which the probe set of the run in `out` lies, going by what its `run.json` says."""
    if STORE not in facts:
        return [Folder.at(facts[PROBE])]  # of an older version
    near = facts.get(STORE_FROM_HERE)
    stores = [joined(out, near)] if near else []
    return [joined(store, facts[PROBE]) for store in (*stores, Folder(facts[STORE]))]


def names_store(out: Folder, facts: Mapping[str, Any], store: Store) -> bool:
    """True if all that the `run.json` in `out` says of the run's store means this one."""
    return all(is_same(found, store.probe(probe_name(facts))) for found in probes_named(out, facts))


def probe_name(facts: Mapping[str, Any]) -> str:
    """Name of the folder of a run's probe set in its store."""
    return str(facts[PROBE]).rstrip("/").rpartition("/")[2]


def probe_of(out: Folder, facts: Mapping[str, Any], store: str | None = None) -> Folder:
    """The folder of the probe set of the run in `out`: in `store` where one is given, else where the run says it is.

    Of several, the first whose store has the run's labels too. Raises `IncompleteError` where it is in none of them.
    """
    name = probe_name(facts)
    if store:
        wanted = [Folder.at(store) / "probes" / name]
    else:
        # A run of an older version that lies in its store names that by its URL alone.
        wanted = [*probes_named(out, facts), joined(out, f"../../probes/{name}")]
    wanted = list(dict.fromkeys(wanted))
    found = [probe for probe in wanted if _has(probe, MANIFEST)]
    if not found:
        raise IncompleteError(_not_found(out, name, wanted, store))
    labels = facts["digests"].get("labels", "")
    return next((probe for probe in found if _has(store_root(probe), f"labels/{labels}")), found[0])


def store_root(probe: Folder) -> Folder:
    """The root of the store that a probe set lies in."""
    return Folder(probe.url.removesuffix(f"/probes/{probe.name}"))


def store_of(out: Folder, facts: Mapping[str, Any], store: str | None = None) -> Store:
    """The store of the run in `out`, found as `probe_of` does. Raises as that and `Store.existing`."""
    return Store.existing(store_root(probe_of(out, facts, store)).url)


def working_folders(out: Folder, facts: Mapping[str, Any]) -> list[Path]:
    """Folders in which the relative paths of a run's spec may mean what they did: moved with it, and as it was."""
    near, folder = facts.get(FOLDER_FROM_HERE), str(facts.get(FOLDER, ""))
    nearby = [Path(joined(out, near).url)] if near and out.is_local else []
    return list(dict.fromkeys([*nearby, Path(folder)]))


def moves(out: Folder, facts: Mapping[str, Any], store: Store) -> list[tuple[str, str]]:
    """Folders `(before, now)` that were moved with the run or its store since it was published."""
    named = probes_named(out, facts)[-1]
    pairs = [(store_root(named).url, store.root.url)]
    pairs += [(str(facts[FOLDER]), str(now)) for now in working_folders(out, facts) if facts.get(FOLDER)]
    return list(dict.fromkeys(moved for pair in pairs if is_local(pair[0]) and (moved := _above(*pair))))


def _above(before: str, now: str) -> tuple[str, str] | None:
    """What was moved, where a folder has come from one place to another: the highest folder of another name."""
    old, new = before.split("/"), now.split("/")
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    return ("/".join(old), "/".join(new)) if len(old) > 1 and len(new) > 1 else None


def _has(folder: Folder, name: str) -> bool:
    try:
        return folder.exists(name)
    except Exception:
        return False  # file systems of all kinds, each with errors of its own: it cannot be read there


def _not_found(out: Folder, name: str, looked: list[Folder], store: str | None) -> str:
    if store:
        return (
            f"The run in {out.url} was made of the probe set {name}, and --store {store} does not have it: there is "
            f"no {looked[0].path(MANIFEST)}. Give the store that the run was made in."
        )
    places = ", ".join(probe.url for probe in looked)
    return (
        f"The run in {out.url} was made of the probe set {name}, which is not there (looked for: {places}). If the "
        "store was moved, say where it is now: --store URL. If it is gone, run again with the same options and "
        "--out: what is missing is made anew."
    )


def _split(url: str) -> tuple[str, str]:
    """Protocol and normal path of a folder, which begins with a slash."""
    protocol, is_url, path = url.rpartition("://")
    return (protocol, posixpath.normpath(f"/{path.lstrip('/')}")) if is_url else ("", posixpath.normpath(url))
