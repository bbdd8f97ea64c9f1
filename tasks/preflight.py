"""What can be known to be wrong before any image is read."""

from __future__ import annotations

from tasks.concepts import concept_embeddings_of, concept_list, named_list
from tasks.dissection.errors import ConceptError
from tasks.models.clip import load_clip
from tasks.observe import traced_layers
from tasks.precomputed import ImageEmbeddingsFile
from tasks.spec import DissectSpec


def preflight(spec: DissectSpec) -> None:
    """Loads models, lists and embedding files and checks them against each other; raises what is wrong."""
    concept_list(spec)
    truth = true_concepts(spec)
    layouts = traced_layers(spec)
    if truth is not None:
        last = list(layouts)[-1]
        num_neurons = layouts[last].num_neurons
        if num_neurons != len(truth):
            raise ConceptError(
                f"--truth {spec.truth} has {len(truth)} concepts, and the last layer, {last}, has {num_neurons} "
                "neurons. Line i is the true concept of neuron i of the last of --layers."
            )
    concept_embeddings_of(spec)
    if spec.image_embeddings:
        ImageEmbeddingsFile.at(spec.image_embeddings).digest()
    elif spec.clip:
        load_clip(spec.clip, spec.clip_checkpoint, spec.device)


def true_concepts(spec: DissectSpec) -> tuple[str, ...] | None:
    """True concepts of the last layer's neurons, or None where they are not known."""
    return named_list(spec.truth, truth=True).concepts if spec.truth else None
