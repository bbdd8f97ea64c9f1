"""What can be known to be wrong before any image is read."""

from __future__ import annotations

from pathlib import Path

from storage.errors import EmbeddingsError, ForeignError, SourceError
from storage.files import Folder, is_local
from tasks.concepts import concept_embeddings_of, concept_list
from tasks.dataset import refuse_foreign
from tasks.evaluation.truth import read_truth
from tasks.models.clip import load_clip, num_dimensions
from tasks.models.devices import check_devices
from tasks.models.targets import load_target
from tasks.models.trial import try_network
from tasks.observation import traced_layers
from tasks.out_folder import refuse_foreign_files
from tasks.precomputed import ImageEmbeddingsFile, read_npy
from tasks.spec import DissectSpec


def preflight(spec: DissectSpec) -> None:
    """Loads models, lists and embedding files and checks them against each other; raises what is wrong."""
    if spec.out and is_local(spec.out) and Path(spec.out).is_file():
        raise SourceError(f"--out {spec.out} is a file. It takes the folder where tables and report go.")
    if spec.publish and spec.out and Folder.at(spec.publish).url == Folder.at(spec.out).url:
        raise ForeignError(f"--publish and --out are one folder, {spec.out}: the tables for others need their own.")
    if spec.out:
        refuse_foreign_files(Folder.at(spec.out), Folder.at(spec.store), overwrite=spec.overwrite)
    if spec.publish:
        refuse_foreign(spec.publish)
    concept_list(spec)
    truth = read_truth(spec.truth) if spec.truth else None
    traced = traced_layers(spec)
    if truth is not None:
        last = list(traced)[-1]
        num_neurons = traced[last].num_neurons
        assert num_neurons is not None  # what has none is refused
        truth.of(last, num_neurons)
    concept_embeddings_of(spec)
    if spec.image_embeddings:
        ImageEmbeddingsFile.at(spec.image_embeddings).digest()
    if not spec.dask_address:  # whose workers have devices of their own
        check_devices(spec.device, spec.share_devices)
    _same_dimensions(spec)
    target = load_target(*spec.network)
    try_network(target, {name: layer.layout for name, layer in traced.items() if layer.layout})


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
