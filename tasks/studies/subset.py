"""Some images of a probe set as a probe set of its own, with their stored embeddings and activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from storage.completion import Rows, groups
from storage.identity import Identity, digest_of
from storage.layout import Store
from tasks import recorded
from tasks.feed import Clock
from tasks.labelling import LabelPlan, plan_labels_of
from tasks.models.targets import Recorded
from tasks.observation import (
    ActivationsRef,
    EmbeddingsRef,
    Missing,
    ObservationPlan,
    groups_embedded,
    groups_recorded,
)
from tasks.shard import ProbeRef
from tasks.studies.studied import StudyError
from tasks.writing import EMBEDDED, Writer


@contextmanager
def subset(plan: LabelPlan, rows: Tensor) -> Iterator[LabelPlan]:
    """The same layers to be labelled by the images of `rows` `[R]` (rising) alone, inside the `with`.

    Their embeddings and activations are copied into a store in a temporary folder, a shard group at a time. Row i of
    the new probe set is row `rows[i]` of the old one. Raises `StudyError` where only top images were kept.
    """
    if plan.activations.kept == "top":
        raise StudyError(
            "The run kept top images alone (--activations top), and what else activates a neuron is not known. Run "
            "again with --activations float16 or float32."
        )
    with TemporaryDirectory(prefix="clip-dissect-") as folder:
        probe, embeddings, activations = _copied(plan, rows, Store.at(folder))
        yield plan_labels_of(probe, plan.spec, embeddings, activations, plan.concepts)


def _copied(plan: LabelPlan, rows: Tensor, store: Store) -> tuple[ProbeRef, EmbeddingsRef, ActivationsRef]:
    identity: Identity = {"probe": plan.probe.digest, "rows": digest_of({"rows": rows.tolist()})}
    digest = digest_of(identity)
    probe = ProbeRef(store.probe(digest), digest, len(rows), 0, 0)
    embeddings = replace(plan.embeddings, store=store, digest=digest, identity=identity)
    activations = replace(plan.activations, store=store, digest=digest, identity=identity)
    into = ObservationPlan(probe, plan.spec, plan.spec, embeddings, {activations.summary: activations}, missing=())
    groups_embedded(probe, embeddings)
    with Writer(into, Clock()) as writer:
        _write(writer, EMBEDDED, probe, recorded.embeddings(plan.embeddings, plan.probe.num_images, rows))
        for layer in activations.layouts:
            groups_recorded(probe, activations, layer)
            blocks = recorded.activations(plan.activations, plan.probe.num_images, layer)
            of = (block[_within(rows, at)] for at, block in blocks)
            _write(writer, (activations.summary, layer), probe, of)
    return probe, embeddings, activations


def _write(writer: Writer, name: str | Recorded, probe: ProbeRef, blocks: Iterable[Tensor]) -> None:
    """Writes an array's rows, which come in blocks, a shard group of the new probe set after the other."""
    waiting = iter(groups(probe.num_images))
    group, start = next(waiting), 0
    for block in blocks:
        while len(block):
            taken = block[: group.stop - start]
            at = Rows(start, start + len(taken))
            is_embedded = name == EMBEDDED
            writer.add(Missing(group, is_embedded, () if isinstance(name, str) else (name,)), at, {name: taken})
            block, start = block[len(taken) :], at.stop
            if start == group.stop and start < probe.num_images:
                group = next(waiting)


def _within(rows: Tensor, at: Rows) -> Tensor:
    """Those of `rows` (rising) that are in a range, counted from its start."""
    first, last = torch.searchsorted(rows, torch.tensor([at.start, at.stop]))
    return rows[first:last] - at.start
