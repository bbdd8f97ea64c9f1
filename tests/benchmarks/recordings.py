"""Recordings of networks that nobody ran: embeddings and top images of any size, written as recording writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from storage import arrays
from storage.completion import Rows, groups, rows_per_shard, steps
from storage.files import Folder
from storage.layout import Store, safe
from tasks import summaries
from tasks.concepts import concept_embeddings_of, embed_concepts
from tasks.dissection.layouts import Axes, Layout
from tasks.labelling import LabelPlan
from tasks.observation import EMBEDDING_AXES, EMBEDDINGS, ActivationsRef, EmbeddingsRef
from tasks.shard import ProbeRef
from tasks.spec import LabelSpec

LAYER = "latents"
DIMENSIONS = 512


def unit(X: torch.Tensor) -> torch.Tensor:
    """Rows scaled to norm 1, with CLIP's narrow cosines."""
    X += 0.5 * torch.randn(X.shape[1], generator=torch.Generator().manual_seed(9))
    return X / X.norm(dim=1, keepdim=True)


def planned(folder: Path, num_images: int, num_neurons: int, num_concepts: int, memory: float) -> LabelPlan:
    """A plan to label `num_neurons` by concepts, whose recording lies below `folder` or is to be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "concepts.npy").exists():
        (folder / "concepts.txt").write_text("\n".join(f"concept {m}" for m in range(num_concepts)))
        concepts = torch.randn(num_concepts, DIMENSIONS, generator=torch.Generator().manual_seed(1))
        np.save(folder / "concepts.npy", unit(concepts).numpy())
    spec = LabelSpec(
        store=str(folder / "store"),
        probe=str(folder),
        target="none",
        layers=(LAYER,),
        image_embeddings="none",
        concepts=str(folder / "concepts.txt"),
        concept_embeddings=str(folder / "concepts.npy"),
        memory=memory,
    )
    store, identity = Store.at(spec.store), {"synthetic": num_images}
    embeddings = EmbeddingsRef(store, "embeddings", identity, DIMENSIONS)
    of = ActivationsRef(
        store, "activations", identity, "max", "top", {LAYER: Layout(Axes.VECTOR)}, {LAYER: num_neurons}
    )
    ref = concept_embeddings_of(spec)
    embed_concepts.fn(ref, spec, 0)
    probe = ProbeRef(Folder.at(str(folder)), "probe", num_images, 0, 0)
    return LabelPlan(spec, probe, embeddings, of, ref, num_concepts, "labels", (LAYER,))


def write(plan: LabelPlan) -> None:
    """Neurons fire on images at random: of 1,000,000 images 131,072 neurons then have nearly all as top images."""
    embeddings, of, num_images = plan.embeddings, plan.activations, plan.probe.num_images
    num_neurons, generator = of.num_neurons[LAYER], torch.Generator().manual_seed(0)
    images = arrays.open_group(of.store.embeddings(embeddings.digest), embeddings.identity)
    step = rows_per_shard(num_images, DIMENSIONS)
    arrays.create_rows(images, EMBEDDINGS, (num_images, DIMENSIONS), step, EMBEDDING_AXES, {})
    group = arrays.open_group(of.store.summaries(of.digest), of.identity)
    summaries.create(group, LAYER, num_images, num_neurons)
    for number, rows in enumerate(groups(num_images)):
        vectors = unit(torch.randn(len(rows), DIMENSIONS, generator=generator))
        for part in steps(rows, step):
            arrays.write_rows(
                images, EMBEDDINGS, part, vectors[part.start - rows.start : part.stop - rows.start].numpy()
            )
        k = min(summaries.TOP_IMAGES_RECORDED, len(rows))
        # The largest of many exponential variables: -log of uniform ones, falling.
        values = -torch.rand(k, num_neurons, generator=generator).log_().neg_().log_()
        values = values.sort(dim=0, descending=True).values
        # Different images for each rank: steps from a start of the neuron's own.
        first = torch.randint(len(rows), (num_neurons,), generator=generator)
        own = (first + 997 * torch.arange(k)[:, None]) % len(rows) + rows.start
        statistics = torch.stack(
            [torch.full((num_neurons,), float(len(rows))), values[-1] - 1, values[0], values.mean(0)]
        )
        at = Rows(number, number + 1)
        for name, block in (
            (summaries.TOP_VALUES, values),
            (summaries.TOP_ROWS, own.int()),
            (summaries.STATISTICS, statistics.double()),
        ):
            padded = torch.full((1, *arrays.shape(group, f"{safe(LAYER)}/{name}")[1:]), torch.nan)
            if name == summaries.TOP_ROWS:
                padded = torch.full(padded.shape, -1, dtype=torch.int32)
            padded = padded.to(block.dtype)
            padded[0, : len(block)] = block
            arrays.write_rows(group, f"{safe(LAYER)}/{name}", at, padded.numpy())
