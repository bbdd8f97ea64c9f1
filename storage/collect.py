"""What a store holds that no run refers to, as things that are kept or removed whole.

What is young is taken for work in progress, and kept with all that it is made of.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from storage.at_work import is_held, locked, refuse_while_at_work
from storage.errors import IncompleteError
from storage.files import Folder, Found
from storage.layout import Place, Store, place
from storage.references import References, of_run
from storage.runs import Run, State, known
from storage.shards import MANIFEST
from storage.whereabouts import joined

#: Kinds of things that runs refer to.
DATA = ("probe set", "list of a tar", "embeddings", "concepts", "activations", "labels", "details", "similarities")
#: Kinds of things that are one file.
LEASE, PARTIAL, LEFTOVER = "lease", "partial write", "left by a crash"
#: Markers in the order in which they are removed: those that vouch for others first. Data comes last.
MARKERS = (MANIFEST, "done.json", ".json")


@dataclass(frozen=True)
class Thing:
    """Files that are kept or removed together."""

    place: Place
    files: tuple[Found, ...]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(one.num_bytes for one in self.files)

    @property
    def modified(self) -> float:
        """When the last file was written."""
        return max(one.modified for one in self.files)

    def __str__(self) -> str:
        of = self.place
        return f"{of.kind} {of.digest} {of.layer}".rstrip() if of.kind in DATA else f"{of.kind} {self.files[0].path}"


@dataclass
class Collected:
    """What of a store can be removed, and what counts as in use."""

    store: Store
    #: Runs that count, and how each is.
    runs: list[tuple[Run, State]]
    #: Runs that do not count any more.
    forgotten: list[Run]
    #: To be removed.
    things: list[Thing] = field(default_factory=list)
    #: No run refers to these, but work in progress may.
    in_progress: list[Thing] = field(default_factory=list)
    #: Leases that somebody holds.
    held: list[str] = field(default_factory=list)


def collect(store: Store, outs: Sequence[str] = (), forget: Sequence[str] = (), older_than: float = 0.0) -> Collected:
    """What no run refers to, nor work of the last `older_than` seconds. Removes nothing.

    Runs are those on record, and those published in `outs`; those whose folders are in `forget` do not count. Raises
    `IncompleteError` for a folder of `outs` without a run, and for one of `forget` of which there is no record or
    that still holds its run; `DamagedError` where a record is torn.
    """
    try:
        runs = [(run, run.state(store)) for run in known(store, [Folder.at(out) for out in outs])]
    except FileNotFoundError as error:
        raise IncompleteError(f"A folder given by --out holds no published run ({error}).") from error
    gone = {joined(Folder.at(out), ".").url for out in forget}
    _refuse_to_forget(gone, {run.folder(store).url: state for run, state in runs})
    found = Collected(
        store,
        [one for one in runs if one[0].folder(store).url not in gone],
        [run for run, _ in runs if run.folder(store).url in gone],
    )
    things, before = _things(store), time.time() - older_than
    references = References(store, (thing.place for thing in things))
    used = references.closure(of for run, _ in found.runs for of in of_run(run))
    in_progress = references.closure(thing.place for thing in things if thing.modified > before)
    for thing in things:
        if thing.place.kind == LEASE:
            if is_held(store, thing.files[0]):
                found.held.append(thing.files[0].path)
            else:
                found.things.append(thing)
        elif thing.place not in used:
            is_kept = thing.place in in_progress or thing.files[0].has_writer
            (found.in_progress if is_kept else found.things).append(thing)
    return found


def _refuse_to_forget(gone: set[str], states: dict[str, State]) -> None:
    for out in gone:
        if out not in states:
            raise IncompleteError(f"No run in {out} is on record. `clip-dissect runs` lists those that are.")
        if states[out] == "published":
            raise IncompleteError(f"The run in {out} is there. Remove that folder first, if nobody needs it.")


def _things(store: Store) -> list[Thing]:
    """All that a run may have made or left in a store, but published runs, records and markers of checkpoints."""
    files = store.root.files()
    finished = {of for one in files if (of := place(one.path)) and one.path.endswith("/done.json")}
    grouped: dict[Place, list[Found]] = {}
    for one in files:
        of = place(one.path)
        if one.is_partial:
            of = Place(PARTIAL, one.path)
        elif of and of.kind == LEASE:
            of = Place(LEASE, one.path)
        elif of in finished and one.path.split("/")[-2] in ("blocks", "softmax"):
            of = Place(LEFTOVER, one.path)
        elif of is None or of.kind not in DATA:
            continue
        grouped.setdefault(of, []).append(one)
    return [Thing(of, tuple(of_thing)) for of, of_thing in grouped.items()]


def remove(found: Collected) -> None:
    """Removes the things, and the records of forgotten runs.

    Raises `BusyError` while a run is at work, and `IncompleteError` where no run is known at all: then nobody knows
    what is needed.
    """
    refuse_while_at_work(found.held)
    if not found.runs and not found.forgotten and any(thing.place.kind in DATA for thing in found.things):
        raise IncompleteError(
            f"No run of {found.store.root.url} is on record, and --out names none. Nothing was removed. Give --out "
            "of each run that is to be kept; or remove the store, if there is none."
        )
    for run in found.forgotten:
        found.store.runs().folder.remove_file(f"{run.name}.json")
    for thing in found.things:
        for one in sorted(thing.files, key=lambda one: _order(one.path)):
            with locked(found.store, one):
                found.store.root.remove_file(one.path)
    _remove_empty_folders(found)


def _order(path: str) -> int:
    """Markers go first: a killed removal leaves none that vouches for what is gone."""
    if path.endswith("zarr.json"):
        return len(MARKERS)
    return next((number for number, ending in enumerate(MARKERS) if path.endswith(ending)), len(MARKERS))


def _remove_empty_folders(found: Collected) -> None:
    if not found.store.root.is_local:
        return  # elsewhere folders are names of files
    root = Path(found.store.root.url)
    folders = {above for thing in found.things for one in thing.files for above in Path(one.path).parents}
    for folder in sorted(folders - {Path()}, key=lambda one: -len(one.parts)):
        with suppress(OSError):  # it holds something
            (root / folder).rmdir()
