"""Runs that a store knows: each records what it refers to before it is published, or where a rerun finds no record.

A run's folder may lie anywhere, also where it cannot be seen now. So a record counts until somebody says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from storage.errors import DamagedError
from storage.files import Folder
from storage.identity import canonical, digest_of
from storage.layout import Store
from storage.whereabouts import SIMILARITIES, joined, probe_name, relative

#: Name of the file in a run's folder that says what it is; written last.
RUN = "run.json"

State = Literal["published", "not there", "replaced"]


@dataclass(frozen=True)
class Run:
    """A published run, and what in the store it was made of."""

    #: Its folder: the path from the store's root, or where these have nothing in common the URL.
    out: str
    #: Of what was published.
    digest: str
    spec: dict[str, Any]
    #: Name of the probe set's folder.
    probe: str
    #: Of the probe set's images, embeddings, concepts, activations and labels, and of details where there are any.
    digests: dict[str, str]
    #: Blocks of concept embeddings that there were.
    concept_blocks: list[str]
    layers: list[str]
    #: Whether similarities are kept.
    similarities: bool
    #: Images, rejects, shards, concepts, neurons.
    counts: dict[str, int]
    #: When it was first run just so, in UTC.
    when: str
    #: URL of its folder when it was recorded. Older versions wrote none, and in `out` the URL where it is not inside.
    url: str = ""

    @property
    def name(self) -> str:
        """Name of its record: a folder holds one run."""
        return digest_of({"out": self.out})

    @staticmethod
    def path_of(out: str, store: Store) -> str:
        """Path of the record of the run in a folder, from the store's root."""
        return f"runs/{digest_of({'out': where(Folder(out), store)})}.json"

    def folder(self, store: Store) -> Folder:
        """The folder in which it is published: where it is from the store, or where it was when it was recorded."""
        near = joined(store.root, self.out)
        return near if not self.url or near.exists(RUN) else Folder(self.url)

    def shown(self, store: Store) -> str:
        """Its folder for people: of one in the store, its path from the store's root."""
        return self.folder(store).url.removeprefix(f"{store.root.url}/")

    def state(self, store: Store) -> State:
        """Says if it still lies where it was published. Raises `DamagedError`."""
        folder = self.folder(store)
        if not folder.exists(RUN):
            return "not there"
        return "published" if folder.read_json(RUN)["digest"] == self.digest else "replaced"


def record(store: Store, run: Run) -> None:
    """Records a run in place of another with the same folder; one that is on record just so stays as it is."""
    with suppress(FileNotFoundError, DamagedError):
        if store.runs().facts(run.name) | {"when": run.when} == asdict(run):
            return
    store.runs().mark(run.name, asdict(run))
    of_older_version = digest_of({"out": run.url})
    if run.url and of_older_version != run.name:
        store.runs().folder.remove_file(f"{of_older_version}.json")


def is_recorded(store: Store, out: Folder) -> bool:
    """True if a run in this folder is on record."""
    names = {Run.path_of(out.url, store), f"runs/{digest_of({'out': out.url})}.json"}
    return any(store.root.is_file(name) for name in names)


def recorded(store: Store) -> list[Run]:
    """All runs on record, in the order in which they ran. Raises `DamagedError`."""
    records = store.runs()
    return sorted((Run(**records.facts(name)) for name in records.done()), key=lambda run: (run.when, run.out))


def published_in(out: Folder, store: Store) -> Run:
    """A run by what is published in a folder. Raises `FileNotFoundError`, `DamagedError`."""
    run = out.read_json(RUN)
    return Run(
        where(out, store),
        run["digest"],
        run["spec"],
        probe_name(run),
        run["digests"],
        [],
        list(run["layers"]),
        bool(run[SIMILARITIES]),
        run["counts"] | {"neurons": sum(layer["neurons"] for layer in run["layers"].values())},
        "",
        out.url,
    )


def known(store: Store, outs: Iterable[Folder]) -> list[Run]:
    """Runs on record, those published in `outs`, and in the store by versions that kept no records.

    Raises `FileNotFoundError` for a folder without a run, `DamagedError`.
    """
    # A folder of which there are two records, from before and after a move, holds the later run.
    runs = {run.folder(store).url: run for run in recorded(store)}
    folder = store.runs().folder
    inside = [folder / name for name in folder.names() if folder.is_file(f"{name}/{RUN}")]
    for out in (joined(one, ".") for one in (*inside, *outs)):
        if out.url not in runs:
            runs[out.url] = published_in(out, store)
    return list(runs.values())


def differences(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Parameters that are not the same in the specs of all runs, but for where these are published."""
    names = dict.fromkeys(name for spec in specs for name in spec if name != "out")
    return [name for name in names if len({canonical({"is": spec.get(name)}) for spec in specs}) > 1]


def where(out: Folder, store: Store) -> str:
    """A run's folder as its record names it."""
    return relative(out.url, store.root.url) or out.url


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
