"""A finished run for people to look at where they are: Markdown for the Prefect UI and the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from storage.files import Folder
from tasks.label_tables import of_live_neurons
from tasks.printable import printable
from tasks.published import (
    DESCRIPTIONS,
    LABELS,
    REJECTS,
    REPORT,
    TOP_IMAGES,
    possible_in_words,
    read_run,
    read_table,
)

#: Layers and first labels that are shown; the report has all of them.
LAYERS_SHOWN, LABELS_SHOWN = 20, 5
#: Letters that mark text up, in Markdown as GitHub and Prefect read it.
MARKS = frozenset("\\|`*_<>[]#&~!$")


def announcement(out: Folder) -> str:
    """What a published run found, how long it took, and where its tables and its report are, as Markdown."""
    return "\n".join(_lines(out, read_run(out), read_table(out, LABELS)))


BESIDE = (DESCRIPTIONS, TOP_IMAGES, REJECTS)


def _lines(out: Folder, run: dict[str, Any], labels: pd.DataFrame) -> Iterator[str]:
    spec, counts, seconds = run["spec"], run["counts"], run["seconds"]
    yield f"# {safe(spec['target'])}"
    yield ""
    yield (
        f"{counts['images']:,} images ({counts['rejects']:,} files refused), {counts['concepts']:,} concepts, "
        f"{safe(spec['similarity'])}."
    )
    yield ""
    yield "| layer | neurons | dead | interpretable | first labels |"
    yield "|---|---:|---:|---:|---|"
    first = of_live_neurons(labels[labels["rank"] == 1])
    for layer, facts in list(run["layers"].items())[:LAYERS_SHOWN]:
        known = first.loc[first["layer"] == layer, "concept"]
        shown = known.head(LABELS_SHOWN)
        interpretable = "-" if facts["interpretable"] is None else facts["interpretable"]
        yield (
            f"| {safe(layer)} | {facts['neurons']} | {facts['dead']} | {interpretable} | "
            f"{', '.join(map(safe, shown))}{' …' if len(known) > LABELS_SHOWN else ''} |"
        )
    if len(run["layers"]) > LAYERS_SHOWN:
        yield f"| … {len(run['layers']) - LAYERS_SHOWN} more | | | | |"
    yield ""
    if run["accuracy"]:
        told = f"{run['accuracy']['top1']:.1%} top-1{possible_in_words(run['accuracy'])}"
        yield f"Accuracy of {safe(run['accuracy']['layer'])}: {told}."
        yield ""
    for note in run["notes"]:
        yield f"- {safe(note)}"
    yield ""
    yield "Seconds of work: " + ", ".join(f"{safe(stage)} {value:.1f}" for stage, value in seconds.items()) + "."
    yield ""
    if rates := [one["images/s"] for one in run["passes"]]:
        yield f"Images a second in a pass: {min(rates):,.0f} to {max(rates):,.0f} ({len(rates)} passes)."
        yield ""
    yield f"- Report: {_code(out.path(REPORT))}"
    yield f"- Tables: {_code(out.path(LABELS))}, and beside it: {', '.join(f'`{name}`' for name in BESIDE)}"


def safe(text: object) -> str:
    """A name or concept as it is: no table cell ends in it, nothing in it is marked up, and no address is a link."""
    escaped = "".join(f"\\{letter}" if letter in MARKS else letter for letter in printable(str(text)))
    return escaped.replace("://", "\\://").replace("www.", "www\\.")


def _code(path: str) -> str:
    """A path as it is, to be copied."""
    return "`" + printable(path).replace("`", "'") + "`"
