"""A published run with what it was made of, opened in its store: no source of images and no network is asked.

What its embeddings and activations are is in `run.json`. (A target may be somebody's own code, which a file alone
must not make run.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from storage import arrays
from storage.errors import EmbeddingsError, IdentityError, IncompleteError
from storage.files import Folder
from storage.identity import Identity, digest_of
from storage.layout import Store
from storage.whereabouts import moves, probe_of, store_of, working_folders
from tasks.concepts import (
    ConceptEmbeddingsRef,
    concept_embeddings_of,
    concept_list,
    embed_texts,
    stored_embeddings,
)
from tasks.dissection.concepts import prompt
from tasks.dissection.errors import ConceptError, UnknownNameError
from tasks.dissection.layouts import Axes, Layout
from tasks.evaluation.truth import names_of, read_truth
from tasks.labelling import LabelPlan, plan_labels_of
from tasks.models.clip import PlacedClip, load_clip
from tasks.models.devices import Placement
from tasks.observation import EMBEDDINGS, ActivationsRef, EmbeddingsRef
from tasks.parameters import names_function, same_target
from tasks.paths import seen_from
from tasks.preprocess_choice import names_code
from tasks.published import LABELS, read_run, read_table
from tasks.shard import ProbeRef, probe_at
from tasks.spec import DissectSpec, LabelSpec

Floats = npt.NDArray[np.float32]


class StudyError(ConceptError):
    """A run that a study has nothing to say of, or what it is asked does not go together."""


@dataclass(frozen=True)
class FinishedRun:
    """A published run, and its store."""

    out: Folder
    #: What its run.json says.
    facts: dict[str, Any]
    #: Where its store is, if somebody has said so; else it is where run.json says.
    given_store: str | None = None

    @classmethod
    def at(cls, run: str, store: str | None = None) -> FinishedRun:
        """The run in its --out folder, or in STORE/runs/DIGEST; `store` is its store, if that was moved.

        Raises `IncompleteError`, also for a store that the run was not made in, and `DamagedError`.
        """
        out = Folder.at(run)
        facts = read_run(out)
        if store:
            store_of(out, facts, store)  # said even where nothing is read of it
        return cls(out, facts, store)

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

    @cached_property
    def store(self) -> Store:
        """The store that it was made in. Raises `IncompleteError` where that is not found."""
        return store_of(self.out, self.facts, self.given_store)

    @cached_property
    def spec(self) -> DissectSpec:
        """Its parameters, with paths as they were where it was started, and the store where it is."""
        folders, moved = working_folders(self.out, self.facts), moves(self.out, self.facts, self.store)
        spec = seen_from(folders, self.facts["spec"], moved)
        return DissectSpec(**spec | {"store": self.store.root.url})

    @property
    def probe(self) -> ProbeRef:
        """Its probe set. Raises `IncompleteError` where that is not there any more."""
        return probe_at(probe_of(self.out, self.facts, self.given_store))

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

    @cached_property
    def plan(self) -> LabelPlan:
        """What its labels were made of. Raises as `plan_of`."""
        return self.plan_of(self.layers)

    def plan_of(self, layers: Iterable[str]) -> LabelPlan:
        """What the labels of some of its layers were made of, and where they lie.

        Raises `IncompleteError` where some of it is not in the store any more, `ConceptError` where the concept list
        is not there any more, and `StudyError` where it is another one by now.
        """
        probe, spec, concepts = self.probe, self._label_spec, self.facts["digests"]["concepts"]
        of = self._embeddings(), self._activations(spec, layers)
        plan = plan_labels_of(probe, spec, *of, ConceptEmbeddingsRef(self.store.concepts(concepts), concepts))
        if plan.digest != self.facts["digests"]["labels"]:
            raise StudyError(
                f"The labels of {self.out.url} would be others today: the concept list {spec.concepts} has changed "
                "since, or this version labels otherwise. Run again with the same options, and study that."
            )
        return plan

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """Its concepts, in order."""
        return concept_list(self.plan.spec).concepts

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit embeddings `[T, D]` of texts, put into the run's prompt, by what embedded its concepts.

        Those that the store has are read, and the others embedded on the CPU. Raises `EmbeddingsError` where the
        run's concepts came embedded, `IdentityError` where its CLIP model is another now.
        """
        template = self.plan.spec.prompt
        prompted = [prompt(template, text) for text in texts]
        known = self._known
        new = [text for text in dict.fromkeys(prompted) if text not in known]
        if new:
            known |= dict(zip(new, embed_texts(self._text_encoder(new), new), strict=True))
        return np.stack([known[text] for text in prompted])

    @cached_property
    def _known(self) -> dict[str, Floats]:
        """Embeddings by text: those in the store, and those made since."""
        return stored_embeddings(self.plan.concepts)

    def network(self, typed: str | None, what_for: str) -> str:
        """What its network is called as a target, where that may be loaded.

        `typed` is what the user typed: code of somebody's own is run for that alone, whatever a file names. Raises
        `StudyError` where it is such code and was not typed; `what_for` is the option or study that would run it.
        """
        target, preprocess = self.spec.target, self.spec.preprocess
        code = [target] * names_function(target)
        code += [preprocess] if preprocess and names_code(preprocess) else []
        if code and not same_target(typed, target):
            raise StudyError(
                f"The run's network is code of somebody's own, {' and '.join(code)}, which {what_for} would run: "
                f"type --target {target} to have it run."
            )
        return target

    def _text_encoder(self, texts: Sequence[str]) -> PlacedClip:
        spec, ref = self.plan.spec, self.plan.concepts
        if spec.concept_embeddings or spec.clip is None:
            raise EmbeddingsError(
                f"{len(texts)} labels (first: {texts[0]!r}) are no concepts of the run, whose concepts came embedded "
                "(--concept-embeddings): there is no CLIP model to embed others. Run with --clip MODEL."
            )
        if concept_embeddings_of(spec).digest != ref.digest:
            raise IdentityError(
                f"The CLIP model {spec.clip} is another now than the run was made with: {len(texts)} labels (first: "
                f"{texts[0]!r}) would be embedded in another space. Give it the same weights, or run again."
            )
        return PlacedClip(load_clip(spec.clip, spec.clip_checkpoint), Placement(torch.device("cpu")))

    @property
    def _label_spec(self) -> LabelSpec:
        """How it labelled; here in this process."""
        own = self.spec.model_dump(include=set(LabelSpec.model_fields))
        return LabelSpec(**own | {"workers": 0, "dask_address": None})

    def _identity(self, what: str) -> Identity:
        identities = self.facts.get("identity")
        if not isinstance(identities, dict) or not isinstance(identities.get(what), dict):
            raise StudyError(f"{self.out.url} does not say what its {what} are: run again with this version.")
        found: Identity = identities[what]
        return found

    def _embeddings(self) -> EmbeddingsRef:
        identity = self._identity("embeddings")
        digest = digest_of(identity)
        url = self.store.embeddings(digest)
        _require(url, "image embeddings")
        num_dimensions = arrays.shape(arrays.open_group(url, identity), EMBEDDINGS)[1]
        return EmbeddingsRef(self.store, digest, identity, num_dimensions)

    def _activations(self, spec: LabelSpec, layers: Iterable[str]) -> ActivationsRef:
        identity = self._identity("activations")
        digest = digest_of(identity)
        _require(self.store.summaries(digest), "activations")
        facts = {layer: self.facts["layers"][layer] for layer in layers}
        # The label steps ask for a layer's name and neurons; of its layout the run says no more than this.
        layouts = {layer: Layout(Axes(of["layout"].partition(",")[0])) for layer, of in facts.items()}
        num_neurons = {layer: of["neurons"] for layer, of in facts.items()}
        return ActivationsRef(self.store, digest, identity, spec.summary[0], spec.activations, layouts, num_neurons)


def _require(url: str, what: str) -> None:
    if not Folder.at(url).exists():
        raise IncompleteError(
            f"The {what} of the run are not there any more: {url}. Run again with the same options and --out: they "
            "are made anew."
        )
