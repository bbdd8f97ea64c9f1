"""Compared runs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.table import Table

from tasks.compare_runs import By, Comparison, Pair
from tasks.runs import told
from tasks.show import literal, table_of

#: How neurons of a layer are paired, in the table of layers.
TOLD: dict[By, str] = {"number": "number", "top images": "top images, mutual", "label": "label, mutual"}


def comparison_tables(found: Comparison, limit: int) -> Iterator[Table | str]:
    """What differs between two runs, with at most `limit` rows a table, most changed first."""
    yield f"\n[bold]before[/bold]  {literal(found.before.out)}\n[bold]after[/bold]   {literal(found.after.out)}"
    yield _parameters(found)
    yield _layers(found)
    for note in found.notes:
        yield f"Note: {literal(note)}"
    for pair in found.layers:
        if pair.by != "label" and len(pair.changed):
            yield _changed(pair, limit)
        if pair.by != "number" and pair.matches is not None:
            yield _matches(pair, pair.matches, limit)
        if (pair.concepts["change"] != "same").any():
            yield _concepts(pair, limit)


def _parameters(found: Comparison) -> Table | str:
    if not found.differing:
        return "The parameters are the same."
    rows = [[name, *(told(run.spec.get(name)) for run in (found.before, found.after))] for name in found.differing]
    return table_of("Parameters that differ", ["parameter", "before", "after"], rows, right=())


def _layers(found: Comparison) -> Table:
    rows = []
    for pair in found.layers:
        facts = found.before.layers[pair.before], found.after.layers[pair.after]
        counts = [
            " → ".join("-" if of[name] is None else f"{of[name]:,}" for of in facts)
            for name in ("neurons", "dead", "nearly_constant", "interpretable", "distinct_labels")
        ]
        num_pairs, num_stayed = len(pair.pairs), len(pair.pairs) - len(pair.changed)
        stayed = f"{num_stayed / num_pairs:.1%}" if num_pairs and pair.by != "label" else "-"
        rows.append([pair.name, *counts, TOLD[pair.by], f"{num_pairs:,}", stayed])
    names = ["layer", "neurons", "dead", "nearly constant", "interpretable", "labels", "paired by", "pairs", "stayed"]
    return table_of("Layers, before → after", names, rows, right=(*names[1:6], "pairs", "stayed"))


def _changed(pair: Pair, limit: int) -> Table:
    rows = [
        [
            _arrow(row.neuron_before, row.neuron_after),
            row.label_before,
            row.label_after,
            f"{row.similarity_before:.3f} → {row.similarity_after:.3f}",
            f"{_number(row.margin_before, '.3f')} → {_number(row.margin_after, '.3f')}",
            _number(row.rank_of_old, ""),
            _number(row.overlap, ".2f"),
        ]
        for row in pair.changed.head(limit).itertuples()
    ]
    title = f"{pair.name}: {len(pair.changed):,} of {len(pair.pairs):,} first labels changed"
    names = ["neuron", "before", "after", "similarity", "margin", "old label now", "overlap"]
    return table_of(title + _cut(pair.changed, limit), names, rows, right=("neuron", *names[3:]))


def _matches(pair: Pair, matches: pd.DataFrame, limit: int) -> Table:
    found = matches[matches["neuron_after"].notna()]
    # By label there is no overlap to sort by: mutual matches come first.
    shown = found.sort_values(["is_mutual", "overlap"], ascending=False, kind="stable")
    rows = [
        [
            f"{row.neuron_before} → {row.neuron_after}",
            row.label_before,
            row.label_after,
            _number(row.overlap, ".2f"),
            _number(row.null_quantile, ".1%"),
            "yes" if row.is_mutual else "",
        ]
        for row in shown.head(limit).itertuples()
    ]
    title = (
        f"{pair.name}: {len(found):,} of {len(matches):,} neurons have a match by {pair.by}, "
        f"{matches['is_mutual'].sum():,} a mutual one"
    )
    if pair.by == "top images":
        title += f"; {(matches['null_quantile'] >= 0.95).sum():,} overlap more than 95 % do by chance"
    names = ["neuron", "before", "after", "overlap", "above null", "mutual"]
    return table_of(title + _cut(found, limit), names, rows, right=("neuron", "overlap", "above null"))


def _concepts(pair: Pair, limit: int) -> Table:
    moved = pair.concepts[pair.concepts["change"] != "same"]
    gained, lost = ((moved["change"] == kind).sum() for kind in ("gained", "lost"))
    rows = [
        [
            row.concept,
            row.change,
            f"{row.neurons_before:,} → {row.neurons_after:,}",
            f"{row.share_before:.1%} → {row.share_after:.1%}",
        ]
        for row in moved.head(limit).itertuples()
    ]
    title = f"{pair.name}: {gained:,} labels gained, {lost:,} lost" + _cut(moved, limit)
    return table_of(title, ["label", "change", "neurons", "share"], rows, right=("neurons", "share"))


def _cut(table: pd.DataFrame, limit: int) -> str:
    return f", first {limit}" if len(table) > limit else ""


def _arrow(before: object, after: object) -> str:
    return f"{before!s}" if before == after else f"{before!s} → {after!s}"


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)
