"""What observing a probe set takes: references to its embeddings and activations, and what they still lack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import zarr
from torch import Tensor

from storage import arrays
from storage.completion import Completion, Rows, groups, in_tasks, rows_per_shard
from storage.identity import Identity, digest_of
from storage.layer_arrays import array_name
from storage.layout import Store
from tasks import summaries
from tasks.dissection.layers import TracedLayer, choices, recordable, resolve, trace
from tasks.dissection.layouts import Layout
from tasks.dissection.summary import SummaryName
from tasks.models.clip import load_clip, num_dimensions
from tasks.models.devices import held_device
from tasks.models.preprocess import image_shape
from tasks.models.targets import Recorded, load_target
from tasks.models.trial import network_notes, try_network
from tasks.parameters import EngineSpec
from tasks.precomputed import ImageEmbeddingsFile
from tasks.shard import ProbeRef
from tasks.spec import EmbedSpec, LabelSpec, RecordSpec

#: The array of image embeddings in its Zarr group.
EMBEDDINGS = "embeddings"
#: Names of the axes of the arrays, for xarray.
EMBEDDING_AXES = "image", "embedding"
#: Raised by one when embeddings or activations stored before lack something, or may be wrong. 2: top images and
#: statistics of every shard group. 3: layouts from two sizes of image, tokens before the patches. 4: shard groups of
#: other sizes.
RECORDING_VERSION = 4


@dataclass(frozen=True)
class EmbeddingsRef:
    """Image embeddings `[I, D]` of a probe set, finished or not."""

    store: Store
    digest: str
    identity: Identity = field(hash=False)
    num_dimensions: int
    #: The images that are looked at, as rows (rising) of the probe set; None for all of them.
    rows: Tensor | None = field(default=None, compare=False)

    def group(self) -> zarr.Group:
        """The Zarr group of the array."""
        return arrays.open_group(self.store.embeddings(self.digest), self.identity)

    def done(self) -> Completion:
        """Markers of the shard groups."""
        return self.store.embeddings_done(self.digest)


@dataclass(frozen=True)
class ActivationsRef:
    """Activations `[I, N]` per layer of a probe set by one summary function, finished or not."""

    store: Store
    digest: str
    identity: Identity = field(hash=False)
    summary: SummaryName
    #: What is kept of them: all, by data type, or the top images alone.
    kept: Literal["float32", "float16", "top"]
    #: Layers in the order asked for, with where their outputs keep the neurons.
    layouts: dict[str, Layout] = field(hash=False)
    num_neurons: dict[str, int] = field(hash=False)
    #: Which of several tensors a layer's name was taken for.
    notes: tuple[str, ...] = field(default=(), compare=False)
    #: The images that are looked at, as rows (rising) of the probe set; None for all of them.
    rows: Tensor | None = field(default=None, compare=False)

    def group(self) -> zarr.Group:
        """The Zarr group of activations, an array per layer."""
        return arrays.open_group(self.store.activations(self.digest), self.identity)

    def summaries(self) -> zarr.Group:
        """The Zarr group of top images and statistics, a group per layer."""
        return arrays.open_group(self.store.summaries(self.digest), self.identity)

    def done(self, layer: str) -> Completion:
        """Markers of a layer's shard groups."""
        return self.store.activations_done(self.digest, layer)


@dataclass(frozen=True)
class Missing:
    """What a shard group still lacks."""

    rows: Rows
    embeddings: bool
    activations: tuple[Recorded, ...]

    def __str__(self) -> str:
        layers = dict.fromkeys(layer for _, layer in self.activations)
        return f"{self.rows}: {', '.join(('embeddings',) * self.embeddings + tuple(layers))}"


@dataclass(frozen=True)
class ObservationPlan:
    """What observing a probe set takes."""

    probe: ProbeRef
    embed: EmbedSpec | None
    record: RecordSpec | None
    embeddings: EmbeddingsRef | None
    #: By summary function.
    activations: dict[SummaryName, ActivationsRef] = field(hash=False)
    missing: tuple[Missing, ...]

    @property
    def store(self) -> Store:
        """Where all of it lies."""
        return Store.at(self.spec.store)

    @property
    def spec(self) -> EmbedSpec | RecordSpec:
        """Where and how the work is done."""
        spec = self.record or self.embed
        assert spec is not None
        return spec

    @property
    def work(self) -> list[ObservationWork]:
        """The missing shard groups by tasks: a bounded number of these, however many the groups are."""
        return [ObservationWork(missing) for missing in in_tasks(self.missing)]

    def still(self, missing: Missing) -> Missing | None:
        """What a shard group lacks now of what it lacked when this was planned; None where others have done it."""
        name = missing.rows.name
        embeddings = missing.embeddings and self.embeddings is not None and not self.embeddings.done().has(name)
        activations = tuple(
            (summary, layer)
            for summary, layer in missing.activations
            if not self.activations[summary].done(layer).has(name)
        )
        return Missing(missing.rows, embeddings, activations) if embeddings or activations else None

    def leases(self, missing: Missing) -> list[str]:
        """Names of what is held while a shard group is observed."""
        written = {self.activations[summary].digest for summary, _ in missing.activations}
        if missing.embeddings and self.embeddings is not None:
            written.add(self.embeddings.digest)
        return [f"{digest}-{missing.rows.name}" for digest in sorted(written)]

    @property
    def for_tasks(self) -> ObservationPlan:
        """What every task takes of it: Prefect looks through all of that and Dask copies it, task by task, which is
        minutes for a list of ten thousand shard groups."""
        return replace(self, missing=())

    @property
    def embeds_by_clip(self) -> bool:
        """Whether embedding takes the images, not a file."""
        return self.embed is not None and self.embed.image_embeddings is None


@dataclass(frozen=True)
class ObservationWork:
    """Shard groups that one task observes."""

    missing: tuple[Missing, ...]

    @property
    def num_images(self) -> int:
        """Images to read."""
        return sum(len(one.rows) for one in self.missing)

    def __str__(self) -> str:
        if len(self.missing) == 1:
            return str(self.missing[0])
        return f"images {self.missing[0].rows.start}-{self.missing[-1].rows.stop - 1}"


def plan_observation(probe: ProbeRef, embed: EmbedSpec | None, record: RecordSpec | None) -> ObservationPlan:
    """Finds what is to be embedded and recorded, and which shard groups lack it. Loads the models.

    Makes the arrays. Raises what is wrong with models, layers and files before any image is read.
    """
    if embed and record and embed.draft != record.draft:
        raise ValueError(
            f"An image is decoded once: draft is {embed.draft} for embed, and {record.draft} for record."
        )
    embeddings = embeddings_of(probe, embed) if embed else None
    activations = recordings_of(probe, record) if record else {}
    for of in activations.values():
        of.store.refuse_twins(of.digest, of.layouts)
    if embed and embed.image_embeddings:
        ImageEmbeddingsFile.at(embed.image_embeddings).check(probe.index()["path"].tolist())
    embedded = groups_embedded(probe, embeddings) if embeddings else frozenset()
    done = {
        (of.summary, layer): groups_recorded(probe, of, layer) for of in activations.values() for layer in of.layouts
    }
    lacking = (
        Missing(
            rows,
            embeddings is not None and rows.name not in embedded,
            tuple(name for name, names in done.items() if rows.name not in names),
        )
        for rows in groups(probe.num_images)
    )
    missing = tuple(one for one in lacking if one.embeddings or one.activations)
    if record and any(one.activations for one in missing):
        layouts = next(iter(activations.values())).layouts
        try_network(load_target(*record.network), layouts)
    return ObservationPlan(probe, embed, record, embeddings, activations, missing)


def model_notes(plan: ObservationPlan) -> list[str]:
    """What whoever reads the results should know of the models that are used: what was chosen without being asked."""
    notes: list[str] = []
    if plan.record and any(missing.activations for missing in plan.missing):
        notes += network_notes(plan.record)
    if plan.embed and plan.embed.clip and any(missing.embeddings for missing in plan.missing):
        notes += load_clip(plan.embed.clip, plan.embed.clip_checkpoint).notes
    return notes


def groups_embedded(probe: ProbeRef, of: EmbeddingsRef) -> frozenset[str]:
    """Names of the shard groups that have embeddings. Makes their array."""
    arrays.create_rows(
        of.group(),
        EMBEDDINGS,
        (probe.num_images, of.num_dimensions),
        rows_per_shard(probe.num_images, of.num_dimensions),
        EMBEDDING_AXES,
        {"what": "unit image embeddings"},
    )
    return of.done().done()


def groups_recorded(probe: ProbeRef, of: ActivationsRef, layer: str) -> frozenset[str]:
    """Names of the shard groups that have activations of a layer. Makes its arrays."""
    num_images, num_neurons = probe.num_images, of.num_neurons[layer]
    summaries.create(of.summaries(), layer, num_images, num_neurons)
    if of.kept != "top":
        group = of.group()
        arrays.create_rows(
            group,
            array_name(group, layer),
            (num_images, num_neurons),
            rows_per_shard(num_images, num_neurons),
            # Of its own name: xarray opens a group only where axes of one name have one length.
            ("image", f"neuron of {layer}"),
            {
                "layer": layer,
                "layout": str(of.layouts[layer]),
                "fill": "NaN: not recorded; -inf: the activation was not finite, and is ignored",
            },
            dtype=of.kept,
        )
    return of.done(layer).done()


def embeddings_of(probe: ProbeRef, spec: EmbedSpec) -> EmbeddingsRef:
    """The reference of a probe set's embeddings: its identity is what makes them."""
    store = Store.at(spec.store)
    if spec.image_embeddings:
        file = ImageEmbeddingsFile.at(spec.image_embeddings)
        identity: Identity = {"version": RECORDING_VERSION, "probe": probe.digest, "precomputed": file.digest()}
        return EmbeddingsRef(store, digest_of(identity), identity, file.num_dimensions())
    assert spec.clip is not None  # the spec has one of both
    clip = load_clip(spec.clip, spec.clip_checkpoint)
    identity = {
        "version": RECORDING_VERSION,
        "probe": probe.digest,
        **_computed(spec),
        **clip.identity,
    }
    return EmbeddingsRef(store, digest_of(identity), identity, num_dimensions(clip))


def _computed(spec: EngineSpec) -> dict[str, str | int]:
    """What an identity says of how images and networks are computed."""
    drafted: dict[str, str | int] = {"draft": spec.draft} if spec.draft else {}
    return {"precision": spec.precision, **drafted}


def recordings_of(probe: ProbeRef, spec: RecordSpec) -> dict[SummaryName, ActivationsRef]:
    """The references of a probe set's activations, by summary function.

    Layers are no part of the identity, so that more can be added.
    """
    target, (traced, names) = load_target(*spec.network), _trace(spec)
    layouts = {name: layout for name in names if (layout := traced[name].layout)}
    num_neurons = {name: traced[name].num_neurons or 0 for name in names}
    notes = tuple(choices(traced, names))
    recordings: dict[SummaryName, ActivationsRef] = {}
    for summary in spec.summary:
        identity: Identity = {
            "version": RECORDING_VERSION,
            "probe": probe.digest,
            **_computed(spec),
            "summary": summary,
            "kept": spec.activations,
            **target.identity,
        }
        recordings[summary] = ActivationsRef(
            *(Store.at(spec.store), digest_of(identity), identity, summary, spec.activations),
            *(layouts, num_neurons, notes),
        )
    return recordings


def activations_of(probe: ProbeRef, spec: LabelSpec) -> ActivationsRef:
    """The reference of the activations that labels are made of: labels have one summary function."""
    [recording] = recordings_of(probe, spec).values()
    return recording


def traced_layers(spec: RecordSpec) -> dict[str, TracedLayer]:
    """The layers of a spec, each recordable, in the order asked for. Raises `LayerError`, `UnknownNameError`."""
    traced, names = _trace(spec)
    return {name: traced[name] for name in names}


def _trace(spec: RecordSpec) -> tuple[dict[str, TracedLayer], tuple[str, ...]]:
    """All layers of a network, and the names of those that a spec asks for."""
    target = load_target(*spec.network)
    with held_device("cpu"):
        traced = trace(target.model, image_shape(target.preprocess))
    layers: Iterable[str] = resolve(target.model, spec.layers, traced)
    for summary in spec.summary:
        layers = recordable(traced, layers, summary)
    return traced, tuple(layers)
