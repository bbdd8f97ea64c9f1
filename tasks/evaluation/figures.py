"""The figures of an evaluation: what is asked, and each answer with its interval and the units it is of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from storage.errors import TableError
from tasks.dissection import metrics
from tasks.dissection.bootstrap import LEVEL, Statistic
from tasks.dissection.errors import ConceptError
from tasks.evaluation.labels import LabelTable, read_labels
from tasks.evaluation.texts import Encoder, clip_encoder, cosines, sentence_encoder
from tasks.evaluation.truth import Truth, read_truth
from tasks.evaluation.units import JudgedUnits, judged_units
from tasks.parameters import Tau
from tasks.publish import interpretable

#: First labels among which the right one is looked for.
TOPS = (1, 5)


@dataclass(frozen=True)
class Question:
    """What is evaluated, against what."""

    #: Folder of a run, or a label table.
    source: str
    #: True concepts (`read_truth`); by default those that the run was given.
    truth: str | None = None
    #: By default the last.
    layer: str | None = None
    #: Number of the table's first unit.
    first_unit: int = 0
    #: Cut-off of interpretable labels (`Tau`); by default the run's.
    tau: str | None = None
    clip: str | None = None
    clip_checkpoint: str | None = None
    sentence_model: str | None = None
    #: The store of the run, if that was moved.
    store: str | None = None
    resamples: int = 1_000
    seed: int = 0


@dataclass(frozen=True)
class Figure:
    """One number, and how sure it is: None where it is not defined or not known, and `note` says why."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    num_units: int
    note: str = ""
    #: What labels by chance get, where that is asked.
    by_chance: float | None = None

    @classmethod
    def of(cls, name: str, statistic: Statistic, resamples: int, seed: int, note: str = "") -> Figure:
        """A statistic of units, with the interval of so many resamples."""
        value = statistic.value()
        low, high = statistic.interval(resamples, seed) if math.isfinite(value) else (math.nan, math.nan)
        return cls(name, known(value), known(low), known(high), statistic.num_units, note)

    def written(self, *, beside_chance: bool = False) -> dict[str, Any]:
        """All but the name, as it is written."""
        chance = {"by_chance": self.by_chance} if beside_chance else {}
        interval = {"value": self.value, "low": self.low, "high": self.high}
        return interval | chance | {"units": self.num_units, "note": self.note}


def known(value: float) -> float | None:
    """None in place of a value that is not defined."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Evaluation:
    """The answers."""

    question: Question
    layer: str
    #: Units in the table.
    num_units: int
    #: Of those, units whose true concept is known; None where nothing is.
    num_known: int | None
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Everything by name, in the order in which it is read."""
        asked = self.question
        return {
            "source": asked.source,
            "layer": self.layer,
            "truth": asked.truth,
            "units": self.num_units,
            "known": self.num_known,
            "interval": {"level": LEVEL, "resamples": asked.resamples, "seed": asked.seed},
            "clip": asked.clip,
            "sentence_model": asked.sentence_model,
            "figures": {one.name: one.written() for one in self.figures},
            "notes": list(self.notes),
        }

    def as_table(self) -> pd.DataFrame:
        """A row per figure: `figure, value, low, high, units, note`."""
        return pd.DataFrame([{"figure": one.name, **one.written()} for one in self.figures])


def evaluate(question: Question) -> Evaluation:
    """Works out every figure that the labels, the truth and the encoders given allow.

    Raises `TableError`, `ConceptError`, `IncompleteError`, `UnknownNameError` and `ModelError`.
    """
    table = read_labels(question.source, question.layer, question.first_unit, question.store)
    truth = _truth(question, table)
    if truth is None and (question.clip or question.sentence_model):
        raise ConceptError("A cosine is of labels and true names: give those with --truth.")
    judged = judged_units(table, truth) if truth else None
    if judged is not None and not len(judged):
        raise ConceptError(f"No unit of layer {table.layer} has both a label and a true concept.")
    figures = [*(_judged_figures(question, judged) if judged else ()), *_figures_of_all(question, table)]
    notes = tuple(_notes(judged)) if judged else ("No true concepts are given (--truth): nothing is judged by them.",)
    num_units = table.rows["unit"].nunique()
    return Evaluation(question, table.layer, num_units, len(judged) if judged else None, tuple(figures), notes)


def _truth(question: Question, table: LabelTable) -> Truth | None:
    if question.truth:
        return read_truth(question.truth)
    known = (table.run or {}).get("accuracy")
    if known and known["layer"] == table.layer:
        return Truth(f"of {question.source}", tuple(known["truth"]))
    return None


def _judged_figures(question: Question, units: JudgedUnits) -> Iterator[Figure]:
    def figure(name: str, statistic: Statistic, note: str = "") -> Figure:
        return _figure(question, name, statistic, note)

    for top in TOPS:
        if not units.is_complete and units.num_ranks < top and np.isinf(units.ranks).any():
            yield Figure(f"top{top}_accuracy", None, None, None, len(units), f"the table has {units.num_ranks} ranks")
        else:
            yield figure(f"top{top}_accuracy", metrics.accuracy(units.ranks, top))
    if units.is_unlisted.any() and not units.is_unlisted.all():
        listed, by = units.ranks[~units.is_unlisted], "the concept list has their true concept"
        for top in TOPS[: 1 + (units.is_complete or units.num_ranks >= TOPS[1])]:
            yield figure(f"top{top}_accuracy_listed", metrics.accuracy(listed, top), by)
    ranks = units.ranks[~units.is_unlisted & ~units.is_dead]
    beyond = int(np.isinf(ranks).sum())
    note = f"{beyond} are beyond rank {units.num_ranks}" if beyond else ""
    yield figure("mean_rank", metrics.mean(ranks), note)
    yield figure("median_rank", metrics.median(ranks), note)
    yield _auc(question, units)
    alive = np.flatnonzero(~units.is_dead)
    for name, encoder in _encoders(question):
        values = cosines([units.labels[i][0] for i in alive], [units.names[i] for i in alive], encoder)
        yield figure(name, metrics.mean(values))


def _auc(question: Question, units: JudgedUnits) -> Figure:
    with_one = ~np.isnan(units.similarity) & ~units.is_dead
    if not with_one.any():
        return Figure("roc_auc", None, None, None, 0, "the table has no similarities")
    right = np.array(
        [
            bool(labels) and np.isfinite(metrics.right_ranks([labels[:1]], [names])[0])
            for labels, names in zip(units.labels, units.names, strict=True)
        ]
    )[with_one]
    note = "all first labels are right" if right.all() else "" if right.any() else "no first label is right"
    return _figure(question, "roc_auc", metrics.roc_auc(units.similarity[with_one], right), note)


def _encoders(question: Question) -> Iterator[tuple[str, Encoder]]:
    if question.clip:
        yield "clip_cosine", clip_encoder(question.clip, question.clip_checkpoint)
    if question.sentence_model:
        yield "sentence_cosine", sentence_encoder(question.sentence_model)


def _figures_of_all(question: Question, table: LabelTable) -> Iterator[Figure]:
    """Figures that need no truth, of all units of the layer."""
    first = table.first
    labels = first.loc[~first["is_dead"], "label"].tolist()
    note = "no interval: units drawn anew have fewer labels"
    if labels:
        yield Figure("distinct_labels", metrics.distinct(labels), None, None, len(labels), note)
        yield Figure("entropy_bits", metrics.entropy(labels), None, None, len(labels), note)
    tau = question.tau or (table.run or {}).get("tau")
    if tau is None:
        return
    cut = Tau.of(tau)
    needed = "similarity" if cut.null_quantile is None else "null_quantile"
    if first.loc[~first["is_dead"], needed].isna().any():
        if question.tau:
            raise TableError(f"--tau {tau} needs the {needed} of every first label, and the table has not got it.")
        yield Figure("interpretable", None, None, None, len(first), f"no {needed} to compare with τ = {tau}")
        return
    above = interpretable(first.assign(**{needed: first[needed].fillna(0.0)}), cut)
    yield _figure(question, "interpretable", metrics.mean(above.to_numpy(dtype=bool)), f"τ = {tau}")


def _figure(question: Question, name: str, statistic: Statistic, note: str = "") -> Figure:
    return Figure.of(name, statistic, question.resamples, question.seed, note)


def _notes(units: JudgedUnits) -> Iterator[str]:
    if units.num_unknown:
        yield f"{units.num_unknown} units have no known concept, and are left out."
    if units.num_absent:
        yield f"{units.num_absent} units with a known concept have no row in the table, and are left out."
    if units.is_dead.any():
        yield f"{units.is_dead.sum()} units have no label: wrong in accuracy, and left out of what compares labels."
    if units.is_unlisted.any():
        yield (
            f"The concept of {units.is_unlisted.sum()} units is none that units are labelled with: wrong in "
            f"accuracy, and left out of ranks. {(~units.is_unlisted).sum()} of {len(units)} can be named right."
        )
    if units.is_complete:
        yield f"Ranks are among all {units.num_ranks} concepts."
    else:
        yield (
            f"Of a unit, {units.num_ranks} labels are known at most; a run with --keep-similarities knows the "
            "ranks of all concepts."
        )
