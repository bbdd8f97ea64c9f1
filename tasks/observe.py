"""Shards into image embeddings and activations: a pass decodes an image once for every model that lacks it."""

from __future__ import annotations

import time
from collections import deque
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.completion import Rows, rows_per_group, steps
from tasks.dissection.threads import NUM_THREADS, computes_alone
from tasks.feed import Clock, Feed, Wanted
from tasks.models.devices import IMAGES_PER_BATCH, choose_devices, held_device, images_per_pass
from tasks.observation import Missing, ObservationPlan, ObservationWork
from tasks.observers import Embedder, Observed, Observer, Recorder, precomputed
from tasks.passes import Pass
from tasks.running import Counter, Waiting, go_on
from tasks.writing import EMBEDDED, Blocks, Writer

#: Forward passes begun on a CPU for each of its threads, while the first of them are waited for.
PASSES_AHEAD = 2


@task(task_run_name="observe {work}", cache_policy=NO_CACHE)
@computes_alone
def observe(plan: ObservationPlan, work: ObservationWork) -> Pass:
    """Decodes shard groups once, embeds and records what they lack; says what the time went into."""
    clock, counter, num_images = Clock(), Counter(), 0
    started = asked = time.perf_counter()
    for lot in plan.store.leases.lots({missing: plan.leases(missing) for missing in work.missing}, Waiting()):
        clock.add("queueing", time.perf_counter() - asked)
        lacking = [missing for missing in map(plan.still, lot) if missing]
        to_do = sum(len(missing.rows) for missing in lacking)
        counter.add(sum(len(missing.rows) for missing in lot) - to_do)  # another run has done them
        _observe(plan, lacking, clock, counter)
        num_images += to_do
        asked = time.perf_counter()
    return Pass(str(work), num_images, time.perf_counter() - started, clock.seconds)


def _observe(plan: ObservationPlan, lacking: list[Missing], clock: Clock, counter: Counter) -> None:
    with Writer(plan, clock) as writer:
        for missing in lacking:
            if missing.embeddings and not plan.embeds_by_clip:
                writer.add(missing, missing.rows, {EMBEDDED: precomputed(plan, missing.rows)})
        to_decode = [missing for missing in lacking if _models(plan, missing)]
        counter.add(sum(len(missing.rows) for missing in lacking if missing not in to_decode))
        if to_decode:
            _pass(plan, to_decode, writer, clock, counter)


def _pass(plan: ObservationPlan, work: list[Missing], writer: Writer, clock: Clock, counter: Counter) -> None:
    """Decodes shard groups and shows them to the models that lack them; what comes out goes to the writer."""
    names = {name for missing in work for name in _models(plan, missing)}
    observers: dict[str, Observer] = {kind.name: kind(plan) for kind in (Embedder, Recorder) if kind.name in names}
    preprocess = {name: observer.preprocess for name, observer in observers.items()}
    wanted = [Wanted(missing.rows, _models(plan, missing)) for missing in work]
    kind, asked = choose_devices(plan.spec.device)[0].type, plan.spec.batch_size
    # A batch is of one shard group, so that what is in it does not depend on which groups are missing.
    size = min(asked or IMAGES_PER_BATCH[kind], rows_per_group(plan.probe.num_images))
    started = time.perf_counter()
    # The first images are read and decoded while another task has the device.
    with (
        Feed(plan.probe, wanted, preprocess, size, clock, enough=plan.spec.draft, pinned=kind == "cuda") as feed,
        held_device(plan.spec.device, shared=plan.spec.share_devices, asks=go_on) as device,
    ):
        clock.add("queueing", time.perf_counter() - started)
        for observer in observers.values():
            observer.place(device)
        batches = ((missing, rows) for missing in work for rows in steps(missing.rows, size))
        ahead = _Ahead(writer, counter, PASSES_AHEAD * NUM_THREADS if device.type == "cpu" else 0)
        for (missing, rows), batch in zip(batches, feed, strict=True):
            go_on()
            observed, num_passes = [], 0
            for name, images in batch.inputs.items():
                per_pass = size if asked else images_per_pass(device, images, size)
                observed.append(observers[name].observe(missing, images, per_pass, partial(clock.timed, name)))
                num_passes += -(-len(images) // per_pass)
            ahead.add(missing, rows, observed, num_passes)
        ahead.finish()


class _Ahead:
    """Batches that models look at while later ones are begun; their blocks are written in order."""

    def __init__(self, writer: Writer, counter: Counter, most_passes: int) -> None:
        self._writer, self._counter, self._most_passes = writer, counter, most_passes
        self._waiting: deque[tuple[Missing, Rows, list[Observed], int]] = deque()

    def add(self, missing: Missing, rows: Rows, observed: list[Observed], num_passes: int) -> None:
        """Takes in a batch; waits for earlier ones as long as they have more than `most_passes` passes."""
        while sum(passes for *_, passes in self._waiting) > self._most_passes:
            self._write()
        self._waiting.append((missing, rows, observed, num_passes))

    def finish(self) -> None:
        """Waits for all of them."""
        while self._waiting:
            self._write()

    def _write(self) -> None:
        missing, rows, observed, _ = self._waiting.popleft()
        blocks: Blocks = {}
        for wait in observed:
            blocks |= wait()
        self._writer.add(missing, rows, blocks)
        self._counter.add(len(rows))


def _models(plan: ObservationPlan, missing: Missing) -> tuple[str, ...]:
    """Names of the models that take the images of a shard group."""
    embeds, records = missing.embeddings and plan.embeds_by_clip, bool(missing.activations)
    return (Embedder.name,) * embeds + (Recorder.name,) * records
