"""What a run, or a stage of one, is asked to do: groups of parameters, and what they ask together."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tasks.parameters import (
    TOP_IMAGES_RECORDED,
    ClipSpec,
    ConceptSpec,
    EngineSpec,
    OutputSpec,
    ProbeSpec,
    SimilaritySpec,
    TargetSpec,
    Tau,
)


class ShardSpec(EngineSpec, ProbeSpec):
    """Images into shards."""


class EmbedSpec(ConceptSpec, ClipSpec, ShardSpec):
    """Shards into image embeddings; concepts into concept embeddings where they are given."""

    @model_validator(mode="after")
    def _something_embeds(self) -> Self:
        if not self.image_embeddings and not self.clip:
            raise ValueError("Nothing embeds the images: give --clip MODEL, or --image-embeddings FILE.")
        if self.concepts and not self.concept_embeddings and not self.clip:
            raise ValueError("Nothing embeds the concepts: give --clip MODEL, or --concept-embeddings FILE.")
        if self.clip and self.image_embeddings and (self.concept_embeddings or not self.concepts):
            raise ValueError("--clip would embed nothing: image and concept embeddings are both given. Drop it.")
        return self


class RecordSpec(TargetSpec, ShardSpec):
    """Shards into activations."""


class LabelSpec(SimilaritySpec, EmbedSpec, RecordSpec):
    """Embeddings and activations into labels per layer."""

    concepts: str = Field(description=ConceptSpec.model_fields["concepts"].description)

    @model_validator(mode="after")
    def _one_summary(self) -> Self:
        if len(self.summary) > 1:
            raise ValueError(
                f"--summary {','.join(self.summary)}: labels are of one summary function. `clip-dissect record` "
                "takes several in one pass; then label with each, and nothing is recorded again."
            )
        return self

    @model_validator(mode="after")
    def _activations_are_enough(self) -> Self:
        needs = self.similarity not in ("soft_wpmi", "wpmi") or (self.top_k or 0) > TOP_IMAGES_RECORDED
        if self.activations == "top" and needs:
            with_k = f" with --top-k {self.top_k}" if self.top_k else ""
            raise ValueError(
                f"--similarity {self.similarity}{with_k} looks at more activations than the {TOP_IMAGES_RECORDED} "
                "largest, which are all that --activations top is sure to keep. Use --activations float16 or float32."
            )
        return self


class DissectSpec(OutputSpec, LabelSpec):
    """The whole run, images to report."""

    @property
    def cut(self) -> Tau:
        """Above what a label is interpretable."""
        if self.tau is not None:
            return Tau.of(self.tau)
        return Tau(0.16, None) if self.similarity == "soft_wpmi" else Tau(None, 0.95)

    @model_validator(mode="after")
    def _null_is_there(self) -> Self:
        if self.tau and self.cut.null_quantile is not None and not self.null_samples:
            raise ValueError(f"--tau {self.tau} compares with shuffled images, and --null-samples 0 leaves them out.")
        return self
