"""What labelling takes, and which part of it is missing. Loads models and lists, reads no activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from storage.bundles import bundles
from storage.completion import Completion, Rows, groups
from storage.errors import IncompleteError
from storage.files import Folder
from storage.identity import Identity, digest_of
from storage.layout import Store
from storage.leases import Waits
from storage.tables import read_parquet
from tasks.concepts import ConceptEmbeddingsRef, concept_embeddings_of, concept_list, list_digest
from tasks.dissection.null import Null
from tasks.dissection.similarity import SIMILARITIES
from tasks.dissection.streaming import TopImages
from tasks.observation import ActivationsRef, EmbeddingsRef, activations_of, embeddings_of
from tasks.running import Waiting
from tasks.shard import ProbeRef
from tasks.spec import LabelSpec

#: Raised by one when the same inputs would give another table than before.
VERSION = 3
#: Keywords of similarity functions that no user chooses.
NO_HYPERPARAMETERS = ("variant", "live")
#: Share of the images that rank reorder looks at (A.1); its function takes their number.
DEFAULT_TOP_FRACTION = 0.05
#: Similarity functions with a softmax over the concepts and a prior over the neurons.
WITH_PRIOR = ("soft_wpmi", "wpmi")

#: Similarities that one task computes: some seconds of work, and 256 MiB where they are kept.
SCORES_PER_BLOCK = 2**26
#: Neurons of a block where neurons do not depend on each other: some seconds of work.
NEURONS_PER_BLOCK = {"rank_reorder": 256, "cos": 4_096, "cos_cubed": 1_024}
#: A layer has at most about this many blocks.
MAX_BLOCKS = 64
#: Blocks are multiples of these, an array's chunk and the kernel's tile.
NEURONS_UNIT, CONCEPTS_UNIT = 128, 64
#: Images whose softmax one task sums: 13 s for 20,000 concepts on two cores.
IMAGES_PER_SUM = 65_536

LABELS, TOP_IMAGES, NEURONS = "labels.parquet", "top_images.parquet", "neurons.parquet"
#: Bundle of the rows of images that some top image is.
USED = "used"
#: Folders of what its tasks leave to each other, while a layer is being labelled.
SOFTMAX, BLOCKS = "softmax", "blocks"
#: Markers of a layer: its top images are found, its labels are there.
FOUND, DONE = "found", "done"


@dataclass(frozen=True)
class Block:
    """Neurons × concepts of a layer: the unit of scoring."""

    neurons: Rows
    concepts: Rows

    @property
    def name(self) -> str:
        """Name of the block's file."""
        return f"{self.neurons.name}.{self.concepts.name}"

    def __str__(self) -> str:
        return f"neurons {self.neurons.start}-{self.neurons.stop - 1}, concepts {self.concepts.start}-" + str(
            self.concepts.stop - 1
        )

    def __len__(self) -> int:
        return len(self.neurons) * len(self.concepts)


def blocks(similarity: str, num_neurons: int, num_concepts: int) -> list[Block]:
    """The blocks of a layer: a function of the layer and the list alone, so that a killed run finds them again.

    With a prior, a block has all neurons and some concepts; without, some neurons and all concepts.
    """
    if similarity in WITH_PRIOR:
        width = max(SCORES_PER_BLOCK // num_neurons, -(-num_concepts // MAX_BLOCKS))
        return [Block(Rows(0, num_neurons), part) for part in ranges(num_concepts, width, CONCEPTS_UNIT)]
    height = max(NEURONS_PER_BLOCK[similarity], -(-num_neurons // MAX_BLOCKS))
    return [Block(part, Rows(0, num_concepts)) for part in ranges(num_neurons, height, NEURONS_UNIT)]


def ranges(total: int, step: int, unit: int) -> list[Rows]:
    """`[0, total)` in steps of at least `step`, a multiple of `unit`."""
    step = -(-step // unit) * unit
    return [Rows(start, min(start + step, total)) for start in range(0, total, step)]


@dataclass(frozen=True)
class LabelPlan:
    """What labelling takes, and where the labels go."""

    spec: LabelSpec
    probe: ProbeRef
    embeddings: EmbeddingsRef
    activations: ActivationsRef
    concepts: ConceptEmbeddingsRef
    num_concepts: int
    digest: str
    missing: tuple[str, ...]
    #: Store of what labelling finds; by default that of the activations.
    aside: Store | None = None
    #: How neurons are shuffled for the null.
    null: type[Null] = Null

    @property
    def store(self) -> Store:
        """Where what is found lies."""
        return self.aside or self.activations.store

    @property
    def digests(self) -> dict[str, str]:
        """Of what the labels are made of, and of them."""
        return {
            "probe": self.probe.digest,
            "embeddings": self.embeddings.digest,
            "concepts": self.concepts.digest,
            "activations": self.activations.digest,
            "labels": self.digest,
        }

    @property
    def counts(self) -> dict[str, int]:
        """How much the labels are made of."""
        probe = self.probe
        shards, rejects = probe.num_shards, probe.num_rejects
        return {"images": probe.num_images, "rejects": rejects, "shards": shards, "concepts": self.num_concepts}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those of the similarity function, all of them."""
        return hyperparameters(self.spec, self.probe.num_images)

    def folder(self, layer: str) -> Folder:
        """Tables and markers of a layer."""
        return self.store.labels(self.digest, layer)

    def done(self, layer: str) -> Completion:
        """Markers of a layer."""
        return Completion(self.folder(layer))

    @contextmanager
    def held(self, layer: str, step: str, waits: Waits) -> Iterator[None]:
        """Nobody else does this step of a layer inside the `with`; waits until that is so."""
        with self.store.leases.held(f"{self.digest}-{layer}-{step}", waits):
            yield

    def softmax_parts(self, layer: str) -> list[Rows]:
        """Ranges of the images whose softmax is to be summed; none where the similarity function has no softmax."""
        if self.spec.similarity not in WITH_PRIOR:
            return []
        return ranges(self.done(layer).facts(FOUND)["num_images_used"], IMAGES_PER_SUM, 1)

    def softmax_folder(self, layer: str) -> Folder:
        """Sums over concepts, a file per range of images."""
        return self.folder(layer) / SOFTMAX

    def blocks(self, layer: str) -> list[Block]:
        """What is scored of a layer."""
        return blocks(self.spec.similarity, self.activations.num_neurons[layer], self.num_concepts)

    def block_shape(self, layer: str) -> tuple[int, int]:
        """Neurons and concepts of the first block, which is as large as any."""
        first = self.blocks(layer)[0]
        return len(first.neurons), len(first.concepts)

    def blocks_folder(self, layer: str) -> Folder:
        """Best labels, a file per block."""
        return self.folder(layer) / BLOCKS

    def remove_parts(self, layer: str) -> None:
        """Removes what blocks and sums held, once it is in the layer's label table."""
        self.blocks_folder(layer).remove()
        self.softmax_folder(layer).remove()

    @property
    def unfound(self) -> list[str]:
        """Layers whose top images are still to be found."""
        return [layer for layer in self.missing if FOUND not in self.done(layer).done()]

    def unsummed(self, layer: str) -> list[Rows]:
        """Softmax parts without a file."""
        there = bundles(self.softmax_folder(layer))
        if self.done(layer).has(DONE):
            return []  # looked for after them: they are removed when that is there
        return [part for part in self.softmax_parts(layer) if part.name not in there]

    def unscored(self, layer: str) -> list[Block]:
        """Blocks without a file."""
        there = bundles(self.blocks_folder(layer))
        if self.done(layer).has(DONE):
            return []
        return [block for block in self.blocks(layer) if block.name not in there]

    def labels(self, layer: str) -> pd.DataFrame:
        """Label table of a layer: a row per neuron and rank."""
        return read_parquet(self.folder(layer), LABELS)

    def first_labels(self, layer: str, most: int = 1_000) -> list[dict[str, Any]]:
        """First labels of a layer's first neurons as plain rows, for people to look at."""
        labels = self.labels(layer)
        columns = ["neuron", "concept", "similarity", "margin", "null_quantile"]
        first = labels.loc[labels["rank"] == 1, columns].head(most).round(3)
        plain = first.astype(object).where(first.notna(), None)
        rows: list[dict[str, Any]] = plain.to_dict("records")  # type: ignore[assignment]
        return rows

    def top_images(self, layer: str) -> pd.DataFrame:
        """Top images of a layer: a row per neuron and rank, `row` being the row of the probe set."""
        return read_parquet(self.folder(layer), TOP_IMAGES)

    def top(self, layer: str, k: int, neurons: slice) -> TopImages:
        """The first `k` top images of some of a layer's neurons."""
        table = read_parquet(self.folder(layer), TOP_IMAGES, columns=["activation", "row"])
        num_neurons = self.activations.num_neurons[layer]
        values, rows = (
            torch.from_numpy(table[column].to_numpy().reshape(num_neurons, -1)[neurons, :k].T.copy())
            for column in ("activation", "row")
        )
        return TopImages(values, rows)

    def neurons(self, layer: str) -> pd.DataFrame:
        """A row per neuron of a layer: what is known of it whatever the concepts."""
        return read_parquet(self.folder(layer), NEURONS)


def plan_labels(probe: ProbeRef, spec: LabelSpec) -> LabelPlan:
    """Checks that all inputs are finished and says which layers are not labelled yet.

    Raises `IncompleteError` saying which stage has to run first.
    """
    return plan_labels_of(
        probe, spec, embeddings_of(probe, spec), activations_of(probe, spec), concept_embeddings_of(spec)
    )


def plan_labels_of(
    probe: ProbeRef,
    spec: LabelSpec,
    embeddings: EmbeddingsRef,
    activations: ActivationsRef,
    concepts: ConceptEmbeddingsRef,
) -> LabelPlan:
    """As `plan_labels`, of inputs whose references are known: no model is loaded."""
    listed = concept_list(spec)
    wanted = [rows.name for rows in groups(probe.num_images)]
    _require(wanted, embeddings.done().done(), "image embeddings", "embed")
    for layer in activations.layouts:
        done = activations.done(layer).done()
        _require(wanted, done, f"activations of layer {layer}", "record")
    identity: Identity = {
        "version": VERSION,
        "embeddings": embeddings.digest,
        "activations": activations.digest,
        "concepts": {"encoder": concepts.digest, "list": list_digest(listed.concepts)},
        "prompt": spec.prompt,
        "similarity": [spec.similarity, spec.variant, hyperparameters(spec, probe.num_images)],
        "ranks": spec.ranks,
        "null": [spec.null_samples, spec.null_seed],
        "similarities": spec.keep_similarities,
    }
    if listed.is_repeated.any():  # other labels than before; those of lists without are as they were
        identity = {**identity, "repeated_concepts": "one label"}
    digest = digest_of(identity)
    there = {layer: activations.store.labels(digest, layer).names() for layer in activations.layouts}
    missing = tuple(layer for layer, names in there.items() if f"{DONE}.json" not in names)
    plan = LabelPlan(spec, probe, embeddings, activations, concepts, len(listed.concepts), digest, missing)
    for layer, names in there.items():
        if layer not in missing and not {SOFTMAX, BLOCKS}.isdisjoint(names):
            # Left by a run that was killed when it had marked the layer, or one that is just at it.
            with plan.held(layer, DONE, Waiting()):
                plan.remove_parts(layer)
    return plan


def hyperparameters(spec: LabelSpec, num_images: int) -> dict[str, Any]:
    """All hyperparameters of the spec's similarity function: those given, and the defaults in its signature.

    `top_k` is lowered to the number of images; the share of rank reorder becomes a number of images.
    """
    chosen = defaults(spec.similarity) | spec.hyperparameters()
    if spec.similarity == "rank_reorder":
        chosen["top_k"] = max(1, int(num_images * chosen.pop("top_fraction", DEFAULT_TOP_FRACTION)))
    if "top_k" in chosen:
        chosen["top_k"] = min(chosen["top_k"], num_images)
    return chosen


def defaults(similarity: str) -> dict[str, Any]:
    """A similarity function's hyperparameters as its signature gives them."""
    keywords: dict[str, Any] = getattr(SIMILARITIES[similarity], "__kwdefaults__", None) or {}
    return {name: value for name, value in keywords.items() if name not in NO_HYPERPARAMETERS}


def notes(plan: LabelPlan) -> list[str]:
    """What a reader of the labels should know: settings that leave nothing to tell concepts or neurons apart by."""
    spec = plan.spec
    found = [*plan.activations.notes]
    wanted, used = spec.top_k or defaults(spec.similarity).get("top_k", 0), plan.hyperparameters.get("top_k", 0)
    if wanted > used:
        found.append(f"K is lowered from {wanted} to {used}: the probe set has {plan.probe.num_images} images.")
    if spec.similarity not in WITH_PRIOR:
        return found
    if plan.num_concepts == 1:
        found.append(
            f"The list has one concept, whose share of every softmax is 1: {spec.similarity} says nothing of any "
            "neuron. Give more concepts, or use --similarity cos."
        )
    alone = [layer for layer, num_neurons in plan.activations.num_neurons.items() if num_neurons == 1]
    if alone and plan.hyperparameters["lam"] == 1:
        found.append(
            f"{', '.join(alone)} has one neuron, whose likelihood is the layer's prior: {spec.similarity} with λ = 1 "
            "is 0 for every concept. Use --lam 0, --similarity rank_reorder or cos."
        )
    return found


def _require(wanted: list[str], done: frozenset[str], what: str, stage: str) -> None:
    missing = sum(name not in done for name in wanted)
    if missing:
        raise IncompleteError(
            f"The {what} of {missing} of {len(wanted)} shard groups are missing. "
            f"Run `clip-dissect {stage}` with the same options first, or `clip-dissect run`."
        )
