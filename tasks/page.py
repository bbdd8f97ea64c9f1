"""The report of a published run: rows and thumbnails from its tables and the probe set's shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from storage.errors import IncompleteError
from storage.files import Folder
from storage.shards import read_images
from tasks.dissection.metrics import normal
from tasks.evaluation.truth import names_of
from tasks.images import decode
from tasks.published import REPORT
from tasks.report.page import render
from tasks.report.rows import Label, Layer, Neuron, Report, TopImage
from tasks.report.thumbnails import thumbnail
from tasks.shard import probe_at

#: Different images on one page; with more, each neuron shows fewer. About 3 KB each.
MAX_THUMBNAILS = 4_000
#: Pixels.
THUMBNAIL_SIDE = 96


def write_report(
    out: Folder, run: dict[str, Any], labels: pd.DataFrame, top_images: pd.DataFrame, rejects: pd.DataFrame
) -> None:
    """Writes `report.html` beside the tables."""
    shown = _few_enough(top_images)
    report = Report(
        title=_title(run["spec"]),
        facts=_facts(run),
        layers=tuple(_layer(run, name, labels, shown) for name in run["layers"]),
        rejects=tuple(zip(rejects["path"], rejects["reason"], strict=True)),
        notes=tuple(run["notes"]),
    )
    out.write(REPORT, render(report, _thumbnails(run, shown)).encode())


def _few_enough(top_images: pd.DataFrame) -> pd.DataFrame:
    ranks = int(max(top_images["rank"], default=0))
    while ranks > 1 and top_images.loc[top_images["rank"] <= ranks, "row"].nunique() > MAX_THUMBNAILS:
        ranks -= 1
    return top_images[top_images["rank"] <= ranks]


def _thumbnails(run: dict[str, Any], top_images: pd.DataFrame) -> dict[str, bytes]:
    names = dict(zip(top_images["row"], top_images["image"], strict=True))
    return {names[row]: jpeg for row, jpeg in thumbnails(run, top_images["row"], THUMBNAIL_SIDE)}


def thumbnails(run: dict[str, Any], rows: Iterable[int], side: int) -> Iterator[tuple[int, bytes]]:
    """JPEGs of images of a run's probe set, by their rows. Raises `IncompleteError` where it is not there."""
    probe = Folder(run["probe"])
    try:
        found = probe_at(probe)
    except OSError as error:
        raise IncompleteError(
            f"The run's probe set {probe.url}, whose images the page shows, cannot be read ({error}). Bring it "
            "back, or run again."
        ) from error
    for row, data in read_images(probe, found.chosen(sorted(set(rows)))):
        yield row, thumbnail(decode(data), side)


def _layer(run: dict[str, Any], name: str, labels: pd.DataFrame, top_images: pd.DataFrame) -> Layer:
    truth: Sequence[str] | None = None
    if run["accuracy"] and run["accuracy"]["layer"] == name:
        truth = run["accuracy"]["truth"]
    images = {
        neuron: tuple(TopImage(image, float(a)) for image, a in zip(table["image"], table["activation"], strict=True))
        for neuron, table in top_images[top_images["layer"] == name].groupby("neuron")
    }
    neurons = []
    for index, table in labels[labels["layer"] == name].groupby("neuron"):
        number, is_dead = int(str(index)), bool(table["is_dead"].iloc[0])
        neurons.append(
            Neuron(
                number,
                is_dead,
                () if is_dead else tuple(_label(row) for row in table.itertuples()),
                images.get(index, ()),
                _true_concept(truth[number], table["concept"].iloc[0])
                if truth and 0 <= number < len(truth)
                else None,
            )
        )
    return Layer(name, tuple(neurons))


def _true_concept(line: str, label: str) -> str | None:
    """What a neuron's true concept is called on the page: as its first label where that is right."""
    names = names_of(line)
    return label if normal(label) in map(normal, names) else next(iter(names), None)


def _label(row: Any) -> Label:
    def number(value: Any) -> float | None:
        return None if pd.isna(value) else float(value)

    return Label(row.concept, float(row.similarity), number(row.log_likelihood), number(row.log_prior))


def _title(spec: dict[str, Any]) -> str:
    return f"{spec['target']} dissected"


def _facts(run: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    spec, counts = run["spec"], run["counts"]
    embedder = spec["clip"] or "precomputed embeddings"
    settings = ", ".join(f"{name} {value:g}" for name, value in run["hyperparameters"].items())
    facts = [
        ("Network", spec["target"] + (f", {spec['checkpoint']}" if spec["checkpoint"] else "")),
        ("Summary function", ", ".join(spec["summary"])),
        ("Probe set", f"{' + '.join(spec['probe'])}: {counts['images']:,} images, {counts['rejects']:,} refused"),
        ("Concepts", f"{spec['concepts']}: {counts['concepts']:,}, prompt “{spec['prompt']}”"),
        ("CLIP", embedder),
        ("Similarity", f"{spec['similarity']} ({spec['variant']}{'; ' + settings if settings else ''})"),
    ]
    if run["accuracy"]:
        tops = ", ".join(
            f"{run['accuracy'][t]:.1%} {t.replace('top', 'top-')}" for t in ("top1", "top5") if t in run["accuracy"]
        )
        facts.append(("Accuracy", f"{run['accuracy']['layer']}: {tops} of {run['accuracy']['neurons']} neurons"))
    counts_of = [(facts["interpretable"], facts["neurons"]) for facts in run["layers"].values()]
    if all(above is not None for above, _ in counts_of):
        above, of = (sum(numbers) for numbers in zip(*counts_of, strict=True))
        facts.append(("Interpretable", f"{above:,} of {of:,} neurons (τ = {run['tau']})"))
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in run["seconds"].items() if stage != "publish")
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (*facts, ("Seconds of work", seconds), ("Run", run["digest"]), ("Versions", versions))
