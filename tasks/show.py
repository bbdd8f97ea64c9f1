"""Labels and layers as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from storage.files import Folder
from tasks.dissection.errors import UnknownNameError
from tasks.label_tables import of_live_neurons
from tasks.printable import printable
from tasks.published import LABELS, REPORT, possible_in_words, read_run, read_table, tops_in_words
from tasks.report.search import Search

if TYPE_CHECKING:  # torch takes seconds to import
    from tasks.dissection.layers import TracedLayer


@dataclass(frozen=True)
class Filter:
    """Which labels to show."""

    layer: str | None = None
    concept: str | None = None
    neuron: int | None = None
    sort: str = "neuron"
    limit: int = 40


def labels_tables(out: str, wanted: Filter) -> Iterator[Table]:
    """One table per layer of a published run. Raises `UnknownNameError` for a layer or neuron that it has not."""
    folder = Folder.at(out)
    run = read_run(folder)
    if wanted.layer and wanted.layer not in run["layers"]:
        raise UnknownNameError.of("layer", wanted.layer, run["layers"], f"The run has {', '.join(run['layers'])}.")
    sizes = {
        name: facts["neurons"]
        for name, facts in run["layers"].items()
        if wanted.layer is None or name == wanted.layer
    }
    _refuse_unknown_neuron(wanted.neuron, sizes)
    labels = read_table(folder, LABELS)
    for layer in sizes:
        yield _labels_table(layer, labels[labels["layer"] == layer], wanted)


def _refuse_unknown_neuron(neuron: int | None, sizes: Mapping[str, int]) -> None:
    """Raises `UnknownNameError` where none of the layers, by their numbers of neurons, has a neuron."""
    if neuron is None or any(0 <= neuron < size for size in sizes.values()):
        return
    largest = max(sizes, key=lambda name: sizes[name])
    which = f"Layer {largest}" if len(sizes) == 1 else f"Of {len(sizes)} layers the largest, {largest},"
    size = sizes[largest]
    raise UnknownNameError(f"There is no neuron {neuron}. {which} has {size:,} neurons: 0 to {size - 1}.")


def layers_table(layers: Iterable[TracedLayer]) -> Table:
    """Names, types, output shapes and neurons; `-` where no activations can be recorded.

    Tensors of which a layer gives several follow it, by the names that they are recorded by.
    """
    table = Table(box=SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("output of one image", no_wrap=True)
    table.add_column("kind")
    table.add_column("neurons", justify="right")
    for layer in layers:
        shape = " × ".join(map(str, layer.shape)) if layer.shape else "-"
        kind = str(layer.layout or "-")
        if layer.items:
            first = f"{kind}, the first of" if layer.layout else "one of"
            kind = f"{first} {len(layer.items)} tensors"
        if layer.num_calls != 1:
            kind = f"runs {layer.num_calls} times: cannot be recorded"
        table.add_row(literal(layer.name), literal(layer.kind), shape, kind, str(layer.num_neurons or "-"))
    return table


def run_lines(run: dict[str, Any], out: Folder, num_shown: int) -> Iterator[str]:
    """What a run prints at its end: first labels of each layer, accuracy, notes, where everything lies."""
    labels = read_table(out, LABELS)
    first = labels[labels["rank"] == 1]
    tau = literal(run["tau"])
    for layer, facts in run["layers"].items():
        flaws = {"dead": facts["dead"], "nearly constant": facts["nearly_constant"]}
        told = "".join(f", {number} {flaw}" for flaw, number in flaws.items() if number)
        yield (
            f"\n[bold]{literal(layer)}[/bold]: {facts['neurons']} neurons{told}, {facts['distinct_labels']} labels, "
            f"{'-' if facts['interpretable'] is None else facts['interpretable']} interpretable (τ = {tau})"
        )
        shown = first[first["layer"] == layer].head(num_shown)
        pairs = zip(shown["neuron"], shown["concept"], strict=True)
        more = " …" if facts["neurons"] > num_shown else ""
        yield "  " + ", ".join(f"{neuron} {literal(concept)}" for neuron, concept in pairs) + more
    accuracy = run["accuracy"]
    if accuracy:
        told = tops_in_words(accuracy) + possible_in_words(accuracy)
        yield f"\nAccuracy of {literal(accuracy['layer'])} on {accuracy['neurons']} known neurons: {told}"
    for note in run["notes"]:
        yield f"Note: {literal(note)}"
    yield f"\nTables  {literal(out.path(LABELS))}, labels.csv, descriptions.csv, top_images.parquet"
    yield f"Report  {literal(out.path(REPORT))}"


def _labels_table(layer: str, labels: pd.DataFrame, wanted: Filter) -> Table:
    if wanted.neuron is not None:
        labels = labels[labels["neuron"] == wanted.neuron]
    if wanted.concept:
        labels = _found(labels, Search.of(wanted.concept))
    first = labels[labels["rank"] == 1]
    if wanted.sort == "similarity":
        first = first.sort_values("similarity", ascending=False, kind="stable")
    shown = first.head(wanted.limit)
    cut = f", first {len(shown)}" if len(shown) < len(first) else ""
    title = f"{literal(layer)}: {len(first)} neuron{'s' * (len(first) != 1)}{cut}"
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD if len(first) else None, show_header=len(first) > 0
    )
    table.add_column("neuron", justify="right")
    table.add_column("label", style="bold")
    table.add_column("similarity", justify="right")
    table.add_column("margin", justify="right")
    table.add_column("above null", justify="right")
    table.add_column("next labels")
    for row in shown.itertuples():
        rest = labels[(labels["neuron"] == row.neuron) & (labels["rank"] > 1)]
        others = ", ".join(
            f"{literal(concept)} {similarity:.2f}"
            for concept, similarity in zip(rest["concept"], rest["similarity"], strict=True)
        )
        table.add_row(
            str(row.neuron),
            literal(row.concept),
            f"{row.similarity:.3f}",
            _number(row.margin, ".3f"),
            _number(row.null_quantile, ".1%"),
            others,
            style="dim" if _number(row.interpretable, "") == "False" else None,
        )
    return table


def _found(labels: pd.DataFrame, search: Search) -> pd.DataFrame:
    """Labels of the neurons that a search finds: by their numbers, or by one of their labels."""
    if search.neuron is not None:
        return labels[labels["neuron"] == search.neuron]
    live = of_live_neurons(labels)
    return labels[labels["neuron"].isin(live.loc[search.hits(live["concept"]), "neuron"])]


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)


def literal(value: object) -> str:
    """A name or label as it is: neither markup nor control characters in it act."""
    return escape(printable(str(value)))


def table_of(title: str, names: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str]) -> Table:
    """A titled table of plain values; columns named in `right` are set to the right."""
    table = Table(title=literal(title), title_justify="left", box=SIMPLE_HEAD)
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(literal, row))
    return table
