"""What the details of neurons take, and which layers lack them. Reads no activations.

A run's cost is bounded: of a layer with very many activations a sample of the images is read, and neurons of a very
wide one are not compared with each other, unless all of it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd

from storage.bundles import bundles
from storage.completion import Completion, Rows, rows_per_shard, steps
from storage.files import Folder
from storage.identity import digest_of
from storage.layout import Store
from storage.leases import Waits
from storage.tables import read_parquet
from tasks.labelling import BLOCKS, DONE, MAX_BLOCKS, NEURONS_UNIT, ranges
from tasks.observation import ActivationsRef, activations_of
from tasks.running import Waiting
from tasks.shard import ProbeRef
from tasks.spec import DissectSpec

#: Raised by one when the same activations would give other details than before.
VERSION = 1
#: Activations and images of a layer that are read where not all are asked for: a minute of work on two cores, and
#: 200 MB for the upper ranges of a strip.
MOST_ACTIVATIONS, MOST_IMAGES = 2**32, 2**20
#: Neurons of a layer that are compared with each other where not all are asked for.
MOST_NEURONS = 32_768
#: Images over which neurons are correlated, fewer of a wide layer: so many numbers are held, twice as large.
MOST_COMPARED, LEAST_COMPARED, NUMBERS_COMPARED = 4_096, 1_024, 2**24
#: Nearest neurons that are kept.
NUM_SIMILAR = 5
#: Activations that one task reads: some seconds of work.
ACTIVATIONS_PER_BLOCK = 2**29
#: Seed of the images of a sample, and of those over which neurons are correlated.
SEED = 0

NEURONS, IMAGE_RANGES, SIMILAR = "neurons.parquet", "image_ranges.parquet", "similar_neurons.parquet"


@dataclass(frozen=True)
class DetailsPlan:
    """What the details take, and where they go."""

    activations: ActivationsRef
    num_images: int
    #: Whether nothing is left out for its cost.
    is_all: bool
    #: GiB for what neurons are compared in.
    memory: float
    digest: str
    missing: tuple[str, ...]

    @property
    def store(self) -> Store:
        """Where all of it lies."""
        return self.activations.store

    @property
    def layers(self) -> list[str]:
        """In the order asked for."""
        return list(self.activations.layouts)

    @property
    def has_all_activations(self) -> bool:
        """Whether all activations were kept, not only the largest."""
        return self.activations.kept != "top"

    def folder(self, layer: str) -> Folder:
        """Tables and marker of a layer."""
        return self.store.details(self.digest, layer)

    def blocks_folder(self, layer: str) -> Folder:
        """What was found of blocks of neurons, a file each."""
        return self.folder(layer) / BLOCKS

    def done(self, layer: str) -> Completion:
        """Marker of a layer."""
        return Completion(self.folder(layer))

    @contextmanager
    def held(self, layer: str, step: str, waits: Waits) -> Iterator[None]:
        """Nobody else does this step of a layer inside the `with`; waits until that is so."""
        with self.store.leases.held(f"{self.digest}-{layer}-{step}", waits):
            yield

    def rows(self, layer: str) -> list[Rows]:
        """Images that are read, in order: all, or some of the Zarr shards, drawn at random."""
        num_neurons = self.activations.num_neurons[layer]
        shards = steps(Rows(0, self.num_images), rows_per_shard(self.num_images, num_neurons))
        most = max(1, min(MOST_ACTIVATIONS // num_neurons, MOST_IMAGES) // len(shards[0]))
        if self.is_all or len(shards) <= most:
            return shards
        chosen = np.random.default_rng(SEED).choice(len(shards), most, replace=False)
        return [shards[number] for number in sorted(chosen)]

    def num_read(self, layer: str) -> int:
        """How many images are read; of a recording of top images alone, none."""
        return sum(map(len, self.rows(layer))) if self.has_all_activations else 0

    def compares(self, layer: str) -> bool:
        """Whether neurons of a layer are compared with each other."""
        return self.is_all or self.activations.num_neurons[layer] <= MOST_NEURONS

    def compared(self, layer: str) -> list[int]:
        """Images over which the neurons are correlated, rising, drawn at random from those that are read."""
        if not self.has_all_activations or not self.compares(layer):
            return []
        rows = np.concatenate([np.arange(part.start, part.stop) for part in self.rows(layer)])
        most = NUMBERS_COMPARED // self.activations.num_neurons[layer]
        num = min(len(rows), max(LEAST_COMPARED, min(MOST_COMPARED, most)))
        chosen: list[int] = np.sort(np.random.default_rng(SEED).choice(rows, num, replace=False)).tolist()
        return chosen

    def blocks(self, layer: str) -> list[Rows]:
        """Neurons that a task looks at."""
        num_neurons = self.activations.num_neurons[layer]
        step = max(ACTIVATIONS_PER_BLOCK // max(1, self.num_read(layer)), -(-num_neurons // MAX_BLOCKS))
        return ranges(num_neurons, step, NEURONS_UNIT)

    def unmeasured(self, layer: str) -> list[Rows]:
        """Blocks without a file."""
        there = bundles(self.blocks_folder(layer))
        if self.done(layer).has(DONE):
            return []  # looked for after them: they are removed when that is there
        return [block for block in self.blocks(layer) if block.name not in there]

    def table(self, layer: str, name: str) -> pd.DataFrame:
        """A table of a layer."""
        return read_parquet(self.folder(layer), name)


def plan_details(probe: ProbeRef, spec: DissectSpec) -> DetailsPlan:
    """Says which layers of a finished recording lack their details."""
    activations = activations_of(probe, spec)
    digest = digest_of({"version": VERSION, "activations": activations.digest, "details": spec.details})
    there = {layer: activations.store.details(digest, layer).names() for layer in activations.layouts}
    missing = tuple(layer for layer, names in there.items() if f"{DONE}.json" not in names)
    plan = DetailsPlan(activations, probe.num_images, spec.details == "all", spec.memory, digest, missing)
    for layer, names in there.items():
        if layer not in missing and BLOCKS in names:
            # Left by a run that was killed when it had marked the layer, or one that is just at it.
            with plan.held(layer, DONE, Waiting()):
                plan.blocks_folder(layer).remove()
    return plan


def notes(plan: DetailsPlan) -> list[str]:
    """What the details leave out, and how to have it."""
    if not plan.has_all_activations:
        return [
            "--activations top keeps the largest activations alone: standard deviations, histograms, neurons similar "
            "by activation, and ranges that reach beyond them are left out."
        ]
    found = []
    for layer in plan.layers:
        num_neurons, num_read = plan.activations.num_neurons[layer], plan.num_read(layer)
        if num_read < plan.num_images:
            found.append(
                f"Details of {layer} are of {num_read:,} of {plan.num_images:,} images, drawn at random "
                f"{len(plan.rows(layer)[0]):,} neighbours at a time: all would be {plan.num_images * num_neurons:,} "
                "activations to read. --details all reads them."
            )
        if not plan.compares(layer):
            found.append(
                f"Neurons of {layer} are not compared with each other: it has {num_neurons:,}, more than "
                f"{MOST_NEURONS:,}. --details all compares them."
            )
    return found
