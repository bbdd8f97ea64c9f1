"""What in a store is made of what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any

from storage.completion import Completion
from storage.layout import Place, Store, safe
from storage.runs import Run
from storage.shards import MANIFEST


def of_run(run: Run) -> Iterator[Place]:
    """What a run was made of."""
    yield Place("probe set", run.probe)
    layers = [safe(layer) for layer in run.layers]
    yield from _of_labels(run.digests, layers)
    if run.similarities:
        yield from (Place("similarities", run.digests["labels"], layer) for layer in layers)


def _of_labels(digests: dict[str, str], layers: Iterable[str]) -> Iterator[Place]:
    yield Place("embeddings", digests["embeddings"])
    yield Place("concepts", digests["concepts"])
    for layer in layers:
        yield Place("activations", digests["activations"], layer)
        yield Place("labels", digests["labels"], layer)
        if "details" in digests:  # of a run of an older version, and of labels alone
            yield Place("details", digests["details"], layer)


class References:
    """What the things of a store are made of, by what stands in them. Its methods raise `DamagedError`."""

    def __init__(self, store: Store, things: Iterable[Place]) -> None:
        self._store, self._things = store, set(things)

    def closure(self, places: Iterable[Place]) -> set[Place]:
        """These, and all that they are made of."""
        found: set[Place] = set()
        waiting = list(places)
        while waiting:
            of = waiting.pop()
            if of not in found:
                found.add(of)
                waiting += self._made_of(of)
        return found

    def _made_of(self, of: Place) -> Iterator[Place]:
        if of.layer:
            yield Place(of.kind, of.digest)  # what all layers have in common
        if of.kind in ("embeddings", "activations"):
            groups = [self._json(f"{of.kind}/{of.digest}{ending}.zarr/zarr.json") for ending in ("", ".summaries")]
            images = {group["attributes"]["identity"]["probe"] for group in groups if group}
            yield from (Place("probe set", name) for name, digest in self._probes.items() if digest in images)
        elif of.kind == "labels" and of.layer:
            digests = self._json(f"labels/{of.digest}/{of.layer}/found.json").get("digests")
            if digests:
                yield from _of_labels(digests, [of.layer])
        elif of.kind == "details" and of.layer:
            activations = self._json(f"details/{of.digest}/{of.layer}/done.json").get("activations")
            if activations:
                yield Place("activations", activations, of.layer)
        elif of.kind == "probe set":
            tars = {shard["shard"] for shard in self._shards(of.digest)}
            yield from (Place("list of a tar", name) for name, tar in self._lists.items() if tar in tars)

    @cached_property
    def _probes(self) -> dict[str, str]:
        """Digest of the images of each finished probe set, by its folder."""
        names = [of.digest for of in self._things if of.kind == "probe set"]
        return {name: self._json(f"probes/{name}/{MANIFEST}").get("digest", "") for name in names}

    @cached_property
    def _lists(self) -> dict[str, str]:
        """The tar that each list is of."""
        names = [of.digest for of in self._things if of.kind == "list of a tar"]
        return {name: self._json(f"tars/{name}.json").get("tar", "") for name in names}

    def _shards(self, probe: str) -> list[dict[str, Any]]:
        shards: list[dict[str, Any]] = self._json(f"probes/{probe}/{MANIFEST}").get("shards", [])
        if shards:
            return shards
        parts = Completion(self._store.probe(probe) / "parts")
        return [parts.facts(name) for name in parts.done()]

    def _json(self, path: str) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            found: dict[str, Any] = self._store.root.read_json(path)
            return found
        return {}
