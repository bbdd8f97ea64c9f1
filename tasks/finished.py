"""A published run with what it was made of, opened in its store: no source of images and no network is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from storage.errors import EmbeddingsError, IdentityError
from tasks.concepts import concept_embeddings_of, concept_list, embed_texts, stored_embeddings
from tasks.dissection.concepts import prompt
from tasks.labelling import LabelPlan
from tasks.models.clip import PlacedClip, load_clip
from tasks.models.devices import Placement
from tasks.parameters import names_function
from tasks.studies.relabel import plan_of
from tasks.studies.studied import StudiedRun, StudyError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FinishedRun:
    """A published run and its store."""

    of: StudiedRun

    @classmethod
    def at(cls, run: str) -> FinishedRun:
        """The run in its --out folder. Raises `IncompleteError`, `DamagedError`."""
        return cls(StudiedRun.at(run))

    @cached_property
    def plan(self) -> LabelPlan:
        """What its labels were made of. Raises what `plan_of` does where that is not there, or another by now."""
        return plan_of(self.of, self.of.layers)

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
        target = self.of.spec.target
        if names_function(target) and typed != target:
            raise StudyError(
                f"The run's network is code of somebody's own, {target}, which {what_for} would run: type --target "
                f"{target} to have it run."
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
