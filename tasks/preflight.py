"""What can be known to be wrong before any image is read."""

from __future__ import annotations

from pathlib import Path

from storage.errors import EmbeddingsError, SourceError
from storage.files import is_local
from tasks.concepts import concept_embeddings_of, concept_list, named_list
from tasks.dissection.errors import ConceptError
from tasks.models.clip import load_clip, num_dimensions
from tasks.models.devices import check_devices
from tasks.observation import traced_layers
from tasks.precomputed import ImageEmbeddingsFile, read_npy
from tasks.spec import DissectSpec


def preflight(spec: DissectSpec) -> None:
    """Loads models, lists and embedding files and checks them against each other; raises what is wrong."""
    if spec.out and is_local(spec.out) and Path(spec.out).is_file():
        raise SourceError(f"--out {spec.out} is a file. It takes the folder where tables and report go.")
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
    check_devices(spec.device, spec.share_devices)
    _same_dimensions(spec)


def _same_dimensions(spec: DissectSpec) -> None:
    """Image and concept embeddings have to be of one CLIP model."""
    images = ImageEmbeddingsFile(spec.image_embeddings).num_dimensions() if spec.image_embeddings else None
    concepts = read_npy(spec.concept_embeddings).shape[1] if spec.concept_embeddings else None
    if spec.clip:
        size = num_dimensions(load_clip(spec.clip, spec.clip_checkpoint))
        images, concepts = images or size, concepts or size
    if images != concepts:
        raise EmbeddingsError(
            f"Image embeddings have {images} dimensions, and concept embeddings have {concepts}: they are of two "
            "different CLIP models. Both have to come from one."
        )


def true_concepts(spec: DissectSpec) -> tuple[str, ...] | None:
    """True concepts of the last layer's neurons, or None where they are not known."""
    return named_list(spec.truth, truth=True).concepts if spec.truth else None
