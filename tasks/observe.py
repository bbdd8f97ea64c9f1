"""Shards into image embeddings and activations: a pass decodes a shard group once for every model that lacks it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage import arrays
from storage.completion import Rows
from storage.errors import EmbeddingsError, ShardError
from storage.identity import Identity
from storage.shards import read_images
from tasks import summaries
from tasks.dissection.errors import LayerError
from tasks.dissection.hooks import recorded
from tasks.images import UndecodableError, decode
from tasks.models.clip import load_clip
from tasks.models.devices import device_lock
from tasks.models.errors import ModelError
from tasks.models.preprocess import Preprocess
from tasks.models.targets import load_target
from tasks.observation import EMBEDDINGS, Missing, ObservationPlan
from tasks.precomputed import ImageEmbeddingsFile
from tasks.shard import ProbeRef
from tasks.spec import EmbedSpec

#: Images with an ignored activation that a marker lists; all of them are counted.
MOST_IGNORED_LISTED = 100


@task(task_run_name="observe {work}", cache_policy=NO_CACHE)
def observe(plan: ObservationPlan, work: Missing) -> int:
    """Decodes a shard group once, embeds and records what it lacks; returns how many images it has."""
    clip_batches: list[torch.Tensor] = []
    layer_batches: dict[str, list[torch.Tensor]] = {layer: [] for layer in work.layers}
    clock = _Clock()
    by_clip = work.embeddings and plan.embed is not None and plan.embed.image_embeddings is None
    if by_clip or work.layers:
        for images in _decoded_batches(plan, work.rows):
            clock.lap("decode")
            if by_clip and plan.embed:
                clip_batches.append(_embed(plan, plan.embed, images))
                clock.lap("embed")
            if work.layers:
                for layer, activations in _record(plan, work.layers, images).items():
                    layer_batches[layer].append(activations)
                clock.lap("record")
    if work.embeddings and plan.embed and plan.embeddings:
        block = torch.cat(clip_batches).numpy() if by_clip else _precomputed(plan, work.rows)
        clock.lap("embed")
        ref = plan.embeddings
        _refuse_non_finite(plan.probe, work.rows, block)
        group = arrays.open_group(ref.store.embeddings(ref.digest), ref.identity)
        arrays.write_rows(group, EMBEDDINGS, work.rows, block)
        facts = {"num_images": len(work.rows), "seconds": clock.seconds["embed"], "decode": clock.seconds["decode"]}
        ref.store.embeddings_done(ref.digest).mark(work.rows.name, facts)
    if work.layers and plan.activations:
        _write_activations(plan, work, {layer: torch.cat(parts) for layer, parts in layer_batches.items()}, clock)
    return len(work.rows)


class _Clock:
    """Seconds by what they went into."""

    def __init__(self) -> None:
        self.seconds = {"decode": 0.0, "embed": 0.0, "record": 0.0}
        self._since = time.perf_counter()

    def lap(self, what: str) -> None:
        """The time since the last lap went into `what`."""
        now = time.perf_counter()
        self.seconds[what] += now - self._since
        self._since = now


def _write_activations(plan: ObservationPlan, work: Missing, blocks: dict[str, torch.Tensor], clock: _Clock) -> None:
    """Writes each layer's block and its summaries, then its marker; a layer bears its share of the seconds."""
    of = plan.activations
    assert of is not None
    group = arrays.open_group(of.store.activations(of.digest), of.identity)
    kept = arrays.open_group(of.store.summaries(of.digest), of.identity)
    ignored: dict[str, dict[str, Any]] = {}
    for layer, block in blocks.items():
        ignored[layer] = _ignore_non_finite(layer, work.rows, block)
        arrays.write_rows(group, layer, work.rows, block.numpy())
        summaries.write(kept, layer, plan.probe.num_images, work.rows, block)
    clock.lap("record")
    share = 1 / len(blocks)
    # What was decoded for the embeddings too is counted there.
    decode = 0.0 if work.embeddings else clock.seconds["decode"] * share
    facts = {"num_images": len(work.rows), "seconds": clock.seconds["record"] * share, "decode": decode}
    for layer in blocks:
        marker = of.store.activations_done(of.digest, layer)
        marker.mark(work.rows.name, {**facts, "ignored": ignored[layer]})


def _embed(plan: ObservationPlan, spec: EmbedSpec, images: list[Image]) -> torch.Tensor:
    """Unit embeddings `[B, D]` of a batch of images."""
    assert spec.clip is not None and plan.embeddings is not None
    clip = load_clip(spec.clip, spec.clip_checkpoint, spec.device)
    if not _is_planned(clip.identity, plan.embeddings.identity):
        load_clip.cache_clear()
        clip = load_clip(spec.clip, spec.clip_checkpoint, spec.device)
        _refuse_unplanned(clip.identity, plan.embeddings.identity, f"CLIP model {spec.clip}")
    return clip.embed_images(_inputs(clip.preprocess, images, spec.batch_size))[: len(images)]


def _precomputed(plan: ObservationPlan, rows: Rows) -> arrays.Floats:
    """Unit embeddings of a range of rows from the file that holds them."""
    assert plan.embed is not None and plan.embed.image_embeddings is not None
    file = ImageEmbeddingsFile.at(plan.embed.image_embeddings)
    if plan.embeddings is None or plan.embeddings.identity["precomputed"] != file.digest():
        raise EmbeddingsError(f"{file.url} or its keys have changed since the run began. Run again.")
    return file.rows(plan.probe.index()["path"].tolist(), rows)


def _decoded_batches(plan: ObservationPlan, rows: Rows) -> Iterator[list[Image]]:
    """The images of a shard group, decoded, a batch at a time; the next batch decodes while one is worked on."""
    spec = plan.record or plan.embed
    batch_size = spec.batch_size if spec else 1
    batch: list[bytes] = []
    ahead: list[Image] | None = None
    for row, data in read_images(plan.probe.folder, plan.probe.index().iloc[rows.start : rows.stop]):
        batch.append(data)
        if len(batch) == batch_size or row == rows.stop - 1:
            decoded = _pool().map(_decode_checked, batch)
            if ahead is not None:
                yield ahead
            ahead, batch = list(decoded), []
    if ahead is not None:
        yield ahead


def _decode_checked(data: bytes) -> Image:
    try:
        return decode(data)
    except UndecodableError as error:
        raise ShardError(f"An image that could be decoded when it was sharded now cannot: {error}.") from error


def _record(plan: ObservationPlan, layers: tuple[str, ...], images: list[Image]) -> dict[str, torch.Tensor]:
    """Activations `[B, N]` of each layer on a batch of images, on the CPU."""
    assert plan.record is not None and plan.activations is not None
    spec = plan.record
    target = load_target(spec.target, spec.checkpoint, spec.device)
    if not _is_planned(target.identity, plan.activations.identity):
        load_target.cache_clear()
        target = load_target(spec.target, spec.checkpoint, spec.device)
        _refuse_unplanned(target.identity, plan.activations.identity, f"network {spec.target}")
    batch = _inputs(target.preprocess, images, spec.batch_size).to(target.device)
    layouts = {layer: plan.activations.layouts[layer] for layer in layers}
    with device_lock(target.device), torch.inference_mode(), recorded(target.model, layouts, spec.summary) as out:
        target.model(batch)
        return {layer: out[layer][: len(images)].float().cpu() for layer in layers}


def _is_planned(loaded: Identity, planned: Identity) -> bool:
    return all(planned[name] == value for name, value in loaded.items())


def _refuse_unplanned(loaded: Identity, planned: Identity, what: str) -> None:
    """A worker that outlives runs may hold what a file held before, and one elsewhere may have another file."""
    if not _is_planned(loaded, planned):
        other = ", ".join(name for name, value in loaded.items() if planned[name] != value)
        raise ModelError(
            f"A worker loads another {what} than the run was planned with (different: {other}). Give all machines "
            "the same files, restart the workers where code has changed, and run again."
        )


def _inputs(preprocess: Preprocess, images: list[Image], batch_size: int) -> torch.Tensor:
    """Preprocessed images `[batch_size, 3, H, W]`, the last one repeated where there are fewer.

    A short batch may be multiplied in another order, and by the number of threads: its last digits would differ from
    one engine to another.
    """
    inputs = list(_pool().map(preprocess, images))
    shapes = {tuple(one.shape) for one in inputs}
    if len(shapes) > 1:
        raise ModelError(
            f"The preprocessing gives inputs of {len(shapes)} shapes ({', '.join(map(str, sorted(shapes)[:3]))}), "
            "and a batch has one. Let it resize or crop, or give images of one size."
        )
    return torch.stack(inputs + inputs[-1:] * (batch_size - len(inputs)))


def _ignore_non_finite(layer: str, rows: Rows, block: torch.Tensor) -> dict[str, Any]:
    """Puts -inf for what is not finite in a block `[rows, N]`; returns how many those were, and on which images.

    NaN would say that a row was lost. Raises `LayerError` where nothing is finite: that is no image's fault.
    """
    bad = ~block.isfinite()
    if bad.all() and len(rows) > 1:
        raise LayerError(
            f"Layer {layer!r} gives NaN or infinite values on all of {rows} for all of its neurons. "
            "Check the network's weights and preprocessing."
        )
    block[bad] = -torch.inf
    images = bad.any(dim=1).nonzero().squeeze(1) + rows.start
    return {"activations": int(bad.sum()), "images": images[:MOST_IGNORED_LISTED].tolist()}


def _refuse_non_finite(probe: ProbeRef, rows: Rows, block: arrays.Floats) -> None:
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad):
        path = probe.index()["path"].iloc[rows.start + int(bad[0])]
        raise LayerError(
            f"The CLIP model gives NaN or infinite values on {len(bad)} of {len(rows)} images (first: {path}). "
            "Check its weights and preprocessing."
        )


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that decode and preprocess: Pillow works outside the interpreter's lock for most of it."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
