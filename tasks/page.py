"""The report of a published run: rows and thumbnails from its tables and the probe set's shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from storage.errors import IncompleteError
from storage.files import Folder, Written
from storage.shards import read_images
from tasks.images import decode
from tasks.page_rows import Details, layer_rows
from tasks.parameters import Tau
from tasks.published import (
    IMAGE_RANGES,
    INPUTS,
    NEURONS,
    REPORT,
    SIMILAR_NEURONS,
    possible_in_words,
    read_table,
    tops_in_words,
)
from tasks.report.pages import FOLDERS, OURS, pages
from tasks.report.rows import Report
from tasks.report.thumbnails import thumbnail
from tasks.shard import probe_at

#: Different images of a report, about 4 KB each: all of a probe set like ImageNet's. With more, neurons show fewer.
MAX_THUMBNAILS = 50_000
#: Pixels.
THUMBNAIL_SIDE = 96
#: Images that are decoded at a time.
BATCH = 64
#: The report of older versions, in one file.
OLD_REPORT = "report.html"


def write_report(
    out: Folder,
    run: dict[str, Any],
    probe: Folder,
    labels: pd.DataFrame,
    top_images: pd.DataFrame,
    rejects: pd.DataFrame,
) -> list[Written]:
    """Writes the folder `report` beside the tables, of which it reads those of details where they are there.

    The images shown are in the folder `probe`. Removes what an earlier report left. Raises `IncompleteError` where
    the probe set is not there.
    """
    details = _details(out)
    top_images, ranges = _few_enough(top_images, details.ranges)
    details = Details(details.neurons, ranges, details.similar, details.inputs)
    accuracy = run["accuracy"]
    report = Report(
        title=f"{run['spec']['target']} dissected",
        facts=tuple(_facts(run)),
        origin=_origin(run),
        layers=tuple(
            layer_rows(
                name,
                accuracy["truth"] if accuracy and accuracy["layer"] == name else None,
                labels,
                top_images,
                details,
            )
            for name in run["layers"]
        ),
        rejects=tuple(zip(rejects["path"], rejects["reason"], strict=True)),
        notes=tuple(run["notes"]),
        spec=tuple((name, _said(value)) for name, value in run["spec"].items() if value is not None),
        cut=_cut(run["tau"]),
    )
    made = _thumbnails(probe, pd.concat([top_images[["row", "image"]], _images_of(ranges)]))
    folder = out / REPORT.partition("/")[0]
    _unlink(folder)
    written = [folder.write(path, data) for path, data in pages(report, made)]
    _remove_older(out, folder, {one.url for one in written})
    return written


def _details(out: Folder) -> Details:
    tables = (NEURONS, IMAGE_RANGES, SIMILAR_NEURONS, INPUTS)
    return Details(*(read_table(out, name) if out.is_file(name) else pd.DataFrame() for name in tables))


def _unlink(folder: Folder) -> None:
    """Removes links in the place of the report's folders: what they lead to is somebody else's."""
    if not folder.is_local:
        return
    for path in (Path(folder.url), *(Path(folder.path(name)) for name in FOLDERS)):
        if path.is_symlink():
            path.unlink()


def _remove_older(out: Folder, folder: Folder, kept: set[str]) -> None:
    """Removes files of an earlier report that this one does not have; nothing that no report has ever written."""
    out.remove_file(OLD_REPORT)
    for found in folder.files():
        if OURS.fullmatch(found.path) and folder.path(found.path) not in kept:
            folder.remove_file(found.path)


def _images_of(ranges: pd.DataFrame) -> pd.DataFrame:
    return ranges[["row", "image"]] if len(ranges) else pd.DataFrame({"row": [], "image": []}, dtype="object")


def _few_enough(top_images: pd.DataFrame, ranges: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Top images of as many ranks as there is room for, one at least; where all have, images of ranges too."""
    ranks = int(max(top_images["rank"], default=0))
    while ranks > 1 and top_images.loc[top_images["rank"] <= ranks, "row"].nunique() > MAX_THUMBNAILS:
        ranks -= 1
    shown = top_images[top_images["rank"] <= ranks]
    if ranges.empty:
        return shown, ranges
    number = ranges.groupby(["layer", "neuron", "range"], sort=False).cumcount()
    most = int(number.max()) + 1
    rows = set(shown["row"])
    while most > 0 and len(rows.union(ranges.loc[number < most, "row"])) > MAX_THUMBNAILS:
        most -= 1
    return shown, ranges[number < most]


def _thumbnails(probe: Folder, images: pd.DataFrame) -> Mapping[str, bytes]:
    names = dict(zip(images["row"], images["image"], strict=True))
    return {names[row]: jpeg for row, jpeg in thumbnails(probe, names, THUMBNAIL_SIDE)}


def thumbnails(probe: Folder, rows: Iterable[int], side: int) -> Iterator[tuple[int, bytes]]:
    """JPEGs of images of a probe set, by their rows. Raises `IncompleteError` where it cannot be read."""
    try:
        found = probe_at(probe)
    except OSError as error:
        raise IncompleteError(
            f"The probe set {probe.url}, whose images are shown, cannot be read ({error}). If its store was moved, "
            "say where it is now: --store URL. If it is gone, run again with the same options."
        ) from error

    def small(image: tuple[int, bytes]) -> tuple[int, bytes]:
        row, data = image
        return row, thumbnail(decode(data, enough=2 * side), side)

    images = read_images(probe, found.chosen(sorted(set(rows))))
    with ThreadPoolExecutor() as threads:
        while batch := list(islice(images, BATCH)):
            yield from threads.map(small, batch)


def _cut(tau: str) -> float | None:
    try:
        return Tau.of(tau).similarity
    except ValueError:
        return None  # edited by hand


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _origin(run: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in run["seconds"].items() if stage != "publish")
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (("Run", run["digest"]), ("Seconds of work", seconds), ("Versions", versions))


def _facts(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    spec, counts, accuracy = run["spec"], run["counts"], run["accuracy"]
    settings = ", ".join(f"{name} {value:g}" for name, value in run["hyperparameters"].items())
    yield "Network", spec["target"] + (f", {spec['checkpoint']}" if spec["checkpoint"] else "")
    yield "Summary function", ", ".join(spec["summary"])
    yield "Probe set", f"{' + '.join(spec['probe'])}: {counts['images']:,} images, {counts['rejects']:,} refused"
    yield "Concepts", f"{spec['concepts']}: {counts['concepts']:,}, prompt “{spec['prompt']}”"
    yield "CLIP", spec["clip"] or "precomputed embeddings"
    yield "Similarity", f"{spec['similarity']} ({spec['variant']}{'; ' + settings if settings else ''})"
    if accuracy:
        told = f"{tops_in_words(accuracy)} of {accuracy['neurons']} neurons{possible_in_words(accuracy)}"
        yield "Accuracy", f"{accuracy['layer']}: {told}"
    counted = [(facts["interpretable"], facts["neurons"]) for facts in run["layers"].values()]
    if all(above is not None for above, _ in counted):
        above, of = (sum(numbers) for numbers in zip(*counted, strict=True))
        yield "Interpretable", f"{above:,} of {of:,} neurons (τ = {run['tau']})"
    if rates := [one["images/s"] for one in run.get("passes", ())]:
        yield "Throughput", f"{min(rates):,.0f} to {max(rates):,.0f} images/s in {len(rates)} passes"
