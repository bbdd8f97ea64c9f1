"""Activations into details of neurons, in two steps: blocks of neurons one by one, then a layer's tables."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.bundles import Arrays, read_bundle, write_bundle
from storage.completion import Rows, groups
from storage.tables import write_parquet
from tasks import recorded, summaries
from tasks.detail_tables import image_ranges_table, neurons_table, similar_table
from tasks.detailing import IMAGE_RANGES, NEURONS, NUM_SIMILAR, SIMILAR, DetailsPlan
from tasks.dissection.neighbours import by_correlation
from tasks.dissection.ranges import RANGES, Keys, Largest, drawn, in_range, keys_of, num_certain, of_keys
from tasks.dissection.spread import Spread
from tasks.dissection.streaming import Statistics
from tasks.dissection.threads import computes_alone
from tasks.labelling import DONE, NEURONS_UNIT
from tasks.running import Waiting, go_on

#: Activations of the neurons that are looked at together.
ACTIVATIONS_PER_STRIP = 2**24


@task(task_run_name="details of {layer}: neurons {block.start}-{block.stop}", cache_policy=NO_CACHE)
@computes_alone
def measure(plan: DetailsPlan, layer: str, block: Rows) -> None:
    """Finds histograms and upper ranges of some neurons, and keeps what they are to be compared by."""
    with plan.held(layer, block.name, Waiting()):
        if block in plan.unmeasured(layer):
            _measure(plan, layer, block)


def _measure(plan: DetailsPlan, layer: str, block: Rows) -> None:
    started = time.perf_counter()
    of_strips = []
    for strip in _strips(plan, layer, block):
        go_on()
        of_strips.append(_of_all(plan, layer, strip) if plan.has_all_activations else _of_largest(plan, layer, strip))
    whole = {name: np.concatenate([one[name] for one in of_strips]) for name in of_strips[0]}
    whole["seconds"] = np.array(time.perf_counter() - started)
    write_bundle(plan.blocks_folder(layer), block.name, whole)


def _strips(plan: DetailsPlan, layer: str, block: Rows) -> Iterator[Rows]:
    width = max(1, ACTIVATIONS_PER_STRIP // max(1, plan.num_read(layer)) // NEURONS_UNIT) * NEURONS_UNIT
    for start in range(block.start, block.stop, width):
        yield Rows(start, min(start + width, block.stop))


def _of_all(plan: DetailsPlan, layer: str, strip: Rows) -> Arrays:
    """Of neurons whose activations were all kept."""
    of, neurons = plan.activations, slice(strip.start, strip.stop)
    known = recorded.statistics(of, plan.num_images, layer, neurons)
    spread = Spread(known.minimum.double().numpy(), known.maximum.double().numpy(), known.mean.numpy())
    largest = Largest(len(strip), int(in_range(plan.num_read(layer), max(RANGES.values()))))
    compared = np.array(plan.compared(layer), dtype=np.int64)
    sample = []
    for rows in plan.rows(layer):
        activations = recorded.activations_of_rows(of, layer, rows, neurons).numpy()
        spread.add(activations)
        largest.add(activations, rows.start)
        first, last = np.searchsorted(compared, [rows.start, rows.stop])
        sample.append(activations[compared[first:last] - rows.start])
    num_counted = spread.counts.sum(1)
    ranges = _drawn(strip, largest.finish(), num_counted, num_counted)
    more = {"std": spread.std, "edges": spread.edges, "counts": spread.counts, "compared": np.concatenate(sample).T}
    return _moments(known) | ranges | {name: np.ascontiguousarray(array) for name, array in more.items()}


def _of_largest(plan: DetailsPlan, layer: str, strip: Rows) -> Arrays:
    """Of neurons of which statistics and the largest activations of every shard group were kept."""
    of, num_images, neurons = plan.activations, plan.num_images, slice(strip.start, strip.stop)
    known = recorded.statistics(of, num_images, layer, neurons)
    tops = [top for some in summaries.read_top_images(of.summaries(), layer, num_images, neurons) for top in some]
    parts = [keys_of(np.ascontiguousarray(top.values.T.numpy()), top.rows.T.numpy()) for top in tops]
    are_whole = [len(rows) <= top.num_images for rows, top in zip(groups(num_images), tops, strict=True)]
    keys = np.sort(np.concatenate(parts, axis=1), axis=1)
    return _moments(known) | _drawn(strip, keys, known.count.numpy(), num_certain(parts, are_whole))


def _moments(known: Statistics) -> Arrays:
    has_any = (known.count > 0).numpy()
    values = {"mean": known.mean, "minimum": known.minimum, "maximum": known.maximum}
    return {name: np.where(has_any, value.numpy(), np.nan).astype(np.float32) for name, value in values.items()}


def _drawn(strip: Rows, keys: Keys, num_images: Keys, num_known: Keys) -> Arrays:
    """Images drawn of each range, `[n, R, k]`, and their activations; row -1 where there are fewer."""
    chosen = drawn(strip.start, num_images, num_known)
    flat = np.maximum(chosen, 0).reshape(len(chosen), -1)
    activations, rows = of_keys(np.take_along_axis(keys, flat, axis=1))
    return {
        "range_rows": np.where(chosen < 0, -1, rows.reshape(chosen.shape)),
        "range_activations": activations.reshape(chosen.shape),
    }


@task(task_run_name="join details of {layer}", cache_policy=NO_CACHE)
@computes_alone
def join_details(plan: DetailsPlan, layer: str) -> None:
    """Compares a layer's neurons, and joins its blocks into tables."""
    with plan.held(layer, DONE, Waiting()):
        if not plan.done(layer).has(DONE):
            _join(plan, layer)


def _join(plan: DetailsPlan, layer: str) -> None:
    started = time.perf_counter()
    found = [read_bundle(plan.blocks_folder(layer), block.name) for block in plan.blocks(layer)]
    seconds = sum(float(one.pop("seconds")) for one in found)
    whole = {name: np.concatenate([one.pop(name) for one in found]) for name in list(found[0])}
    tables = {
        NEURONS: neurons_table(whole),
        IMAGE_RANGES: image_ranges_table(whole["range_rows"], whole["range_activations"]),
        SIMILAR: _similar(plan, layer, whole),
    }
    files = [write_parquet(plan.folder(layer), name, table) for name, table in tables.items()]
    facts = {
        "activations": plan.activations.digest,
        "images_read": plan.num_read(layer),
        "images_compared": len(plan.compared(layer)),
        "seconds": seconds + time.perf_counter() - started,
    }
    plan.done(layer).mark(DONE, facts, files)
    plan.blocks_folder(layer).remove()


def _similar(plan: DetailsPlan, layer: str, whole: Arrays) -> pd.DataFrame:
    if not plan.compared(layer):
        return similar_table(None)
    A = torch.from_numpy(whole["compared"]).T  # [S, N]
    return similar_table(by_correlation(A, NUM_SIMILAR, int(plan.memory * 2**30)))
