"""The run that a study is of, and what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from storage.errors import IncompleteError
from storage.files import Folder
from storage.layout import Store
from storage.shards import MANIFEST
from tasks.dissection.errors import ConceptError, UnknownNameError
from tasks.evaluation.truth import names_of, read_truth
from tasks.published import LABELS, read_run, read_table
from tasks.shard import ProbeRef, probe_at
from tasks.spec import DissectSpec


class StudyError(ConceptError):
    """A run that a study has nothing to say of, or what it is asked does not go together."""


@dataclass(frozen=True)
class StudiedRun:
    """A published run."""

    out: Folder
    #: What its run.json says.
    facts: dict[str, Any]

    @classmethod
    def at(cls, run: str) -> StudiedRun:
        """The run in its --out folder, or in STORE/runs/DIGEST. Raises `IncompleteError`, `DamagedError`."""
        out = Folder.at(run)
        return cls(out, read_run(out))

    @property
    def layers(self) -> list[str]:
        """Names of its layers, in order."""
        return list(self.facts["layers"])

    def layer(self, name: str | None) -> str:
        """The layer of this name, by default the last. Raises `UnknownNameError`."""
        if name is not None and name not in self.layers:
            raise UnknownNameError.of("layer", name, self.layers, f"The run has {', '.join(self.layers)}.")
        return name or self.layers[-1]

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Its label table, of all layers and ranks."""
        return read_table(self.out, LABELS)

    @property
    def first_labels(self) -> pd.DataFrame:
        """First labels, a row per layer and neuron, layers in the run's order."""
        return self.labels[self.labels["rank"] == 1]

    @property
    def store(self) -> Store:
        """The store that it was made in, which lies where the probe set does."""
        return Store.existing(self._probe.url.removesuffix(f"/probes/{self._probe.name}"))

    @property
    def spec(self) -> DissectSpec:
        """Its parameters, with the store where it is."""
        return DissectSpec(**self.facts["spec"] | {"store": self.store.root.url})

    @property
    def probe(self) -> ProbeRef:
        """Its probe set. Raises `IncompleteError` where that is not there any more."""
        if not self._probe.exists(MANIFEST):
            raise IncompleteError(
                f"The run in {self.out.url} was made of the probe set {self._probe.url}, which is not there. Bring "
                "its store back there, or run again with the same options."
            )
        return probe_at(self._probe)

    @property
    def _probe(self) -> Folder:
        return Folder.at(self.facts["probe"])

    def truth(self, layer: str, given: str | None = None) -> dict[int, tuple[str, ...]]:
        """Names of the true concept of each neuron of a layer that has a known one, none where nothing is known.

        `given` is as `read_truth` takes it; by default the truth is what the run was given, of its last layer. Raises
        `ConceptError` and `TableError`.
        """
        known = self.facts["accuracy"]
        lines: Sequence[str] = ()
        if given is not None:
            lines = read_truth(given).of(layer, self.facts["layers"][layer]["neurons"])
        elif known is not None and known["layer"] == layer:
            lines = known["truth"]
        return {neuron: names_of(line) for neuron, line in enumerate(lines) if line}
