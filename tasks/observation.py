"""What observing a probe set takes: references to its embeddings and activations, and what they still lack."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from storage import arrays
from storage.completion import Rows, groups, rows_per_group
from storage.identity import Identity, digest_of
from storage.layout import Store
from tasks import summaries
from tasks.dissection.layers import TracedLayer, recordable, resolve, trace
from tasks.dissection.layouts import Layout
from tasks.models.clip import load_clip
from tasks.models.devices import device_lock
from tasks.models.preprocess import image_shape
from tasks.models.targets import load_target
from tasks.precomputed import ImageEmbeddingsFile
from tasks.shard import ProbeRef
from tasks.spec import EmbedSpec, RecordSpec

#: The array of image embeddings in its Zarr group.
EMBEDDINGS = "embeddings"
#: Names of the axes of the arrays, for xarray.
EMBEDDING_AXES = "image", "embedding"
#: Raised by one when recordings made before lack something, or may be wrong. 2: top images and statistics of every
#: shard group. 3: layouts from two sizes of image, tokens before the patches.
RECORDING_VERSION = 3


@dataclass(frozen=True)
class EmbeddingsRef:
    """Image embeddings `[I, D]` of a probe set, finished or not."""

    store: Store
    digest: str
    identity: Identity = field(hash=False)
    num_dimensions: int


@dataclass(frozen=True)
class ActivationsRef:
    """Activations `[I, N]` per layer of a probe set, finished or not."""

    store: Store
    digest: str
    identity: Identity = field(hash=False)
    #: Layers in the order asked for, with where their outputs keep the neurons.
    layouts: dict[str, Layout] = field(hash=False)
    num_neurons: dict[str, int] = field(hash=False)


@dataclass(frozen=True)
class Missing:
    """What a shard group still lacks: the work of one task."""

    rows: Rows
    embeddings: bool
    layers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rows}: {', '.join(('embeddings',) * self.embeddings + self.layers)}"


@dataclass(frozen=True)
class ObservationPlan:
    """What observing a probe set takes."""

    probe: ProbeRef
    embed: EmbedSpec | None
    record: RecordSpec | None
    embeddings: EmbeddingsRef | None
    activations: ActivationsRef | None
    missing: tuple[Missing, ...]


def plan_observation(probe: ProbeRef, embed: EmbedSpec | None, record: RecordSpec | None) -> ObservationPlan:
    """Finds what is to be embedded and recorded, and which shard groups lack it. Loads the models.

    Makes the arrays. Raises what is wrong with models, layers and files before any image is read.
    """
    embeddings = embeddings_of(probe, embed) if embed else None
    activations = activations_of(probe, record) if record else None
    embedded = frozenset[str]()
    if embed and embed.image_embeddings:
        ImageEmbeddingsFile.at(embed.image_embeddings).rows(probe.index()["path"].tolist(), Rows(0, 0))
    if embeddings:
        group = arrays.open_group(embeddings.store.embeddings(embeddings.digest), embeddings.identity)
        shape = probe.num_images, embeddings.num_dimensions
        attributes = {"what": "unit image embeddings"}
        arrays.create_rows(group, EMBEDDINGS, shape, rows_per_group(probe.num_images), EMBEDDING_AXES, attributes)
        embedded = embeddings.store.embeddings_done(embeddings.digest).done()
    recorded_groups: dict[str, frozenset[str]] = {}
    if activations:
        group = arrays.open_group(activations.store.activations(activations.digest), activations.identity)
        kept = arrays.open_group(activations.store.summaries(activations.digest), activations.identity)
        for layer, num_neurons in activations.num_neurons.items():
            attributes = {
                "layer": layer,
                "layout": str(activations.layouts[layer]),
                "fill": "NaN: not recorded; -inf: the activation was not finite, and is ignored",
            }
            # Of its own name: xarray opens a group only where axes of one name have one length.
            axes = "image", f"neuron of {layer}"
            shape = probe.num_images, num_neurons
            arrays.create_rows(group, layer, shape, rows_per_group(probe.num_images), axes, attributes)
            summaries.create(kept, layer, probe.num_images, num_neurons)
            recorded_groups[layer] = activations.store.activations_done(activations.digest, layer).done()
    lacking = (
        Missing(
            rows,
            embeddings is not None and rows.name not in embedded,
            tuple(layer for layer, done in recorded_groups.items() if rows.name not in done),
        )
        for rows in groups(probe.num_images)
    )
    missing = tuple(work for work in lacking if work.embeddings or work.layers)
    return ObservationPlan(probe, embed, record, embeddings, activations, missing)


def embeddings_of(probe: ProbeRef, spec: EmbedSpec) -> EmbeddingsRef:
    """The reference of a probe set's embeddings: its identity is what makes them."""
    store = Store.at(spec.store)
    if spec.image_embeddings:
        file = ImageEmbeddingsFile.at(spec.image_embeddings)
        identity = {"probe": probe.digest, "precomputed": file.digest()}
        return EmbeddingsRef(store, digest_of(identity), identity, file.num_dimensions())
    assert spec.clip is not None  # the spec has one of both
    clip = load_clip(spec.clip, spec.clip_checkpoint, spec.device)
    identity = {"probe": probe.digest, "precision": "float32", **clip.identity}
    num_dimensions = clip.embed_images(torch.zeros(1, *image_shape(clip.preprocess))).shape[1]
    return EmbeddingsRef(store, digest_of(identity), identity, num_dimensions)


def activations_of(probe: ProbeRef, spec: RecordSpec) -> ActivationsRef:
    """The reference of a probe set's activations; layers are no part of the identity, so that more can be added."""
    target = load_target(spec.target, spec.checkpoint, spec.device)
    traced = traced_layers(spec)
    identity: Identity = {
        "version": RECORDING_VERSION,
        "probe": probe.digest,
        "precision": "float32",
        "summary": spec.summary,
        **target.identity,
    }
    layouts = {name: layer.layout for name, layer in traced.items() if layer.layout}
    num_neurons = {name: layer.num_neurons or 0 for name, layer in traced.items()}
    return ActivationsRef(Store.at(spec.store), digest_of(identity), identity, layouts, num_neurons)


def traced_layers(spec: RecordSpec) -> dict[str, TracedLayer]:
    """The layers of a spec, each recordable, in the order asked for. Raises `LayerError`, `UnknownNameError`."""
    target = load_target(spec.target, spec.checkpoint, spec.device)
    layers = resolve(target.model, spec.layers)
    with device_lock(target.device):
        traced = trace(target.model, image_shape(target.preprocess))
    return {name: traced[name] for name in recordable(traced, layers, spec.summary)}
