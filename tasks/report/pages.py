"""The report as a folder that opens from disk: no server, no network, nothing outside it.

`index.html` is the overview, `layers/` has a page per layer, and `data/` what these load when they need it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.report.page import filled
from tasks.report.payload import IMAGES, NEURONS, scripts
from tasks.report.rows import Report
from tasks.report.summary import Scale, summarise

INDEX = "index.html"
#: Paths of all that a report may consist of.
OURS = re.compile(r"index\.html|layers/\d+(-[\w.-]+)?\.html|data/(\d+-index|\d+-neurons-\d+|images-\d+)\.js")
#: Folders of it.
FOLDERS = ("layers", "data")
MAX_REJECTS = 200  # rows on the page; a heap of a million images may have refused thousands
STYLES = ("base.css", "report.css", "print.css")
COMMON = ("dom.js", "data.js", "search.js")
OF_LAYER = ("figures.js", "thumbnails.js", "rows.js", "list.js", "card.js", "layer.js")


def pages(report: Report, thumbnails: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file; `thumbnails` holds JPEG bytes per image key, a missing one is a placeholder."""
    summaries = summarise(report.layers)
    scale = Scale.of(report.layers)
    paths = [_page_of(number, layer.name) for number, layer in enumerate(report.layers)]
    yield INDEX, _overview(report, summaries, scale, paths).encode()
    for number in range(len(report.layers)):
        yield paths[number], _layer(report, summaries, paths, number).encode()
    for name, script in scripts(report.layers, thumbnails):
        yield f"data/{name}.js", script.encode("ascii")


def _page_of(number: int, name: str) -> str:
    """A layer's page: numbered, for two names may differ in letters that no file name may have."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:60].strip(".-")
    return f"layers/{number}-{plain}.html" if plain else f"layers/{number}.html"


def _overview(report: Report, summaries: Any, scale: Scale, paths: list[str]) -> str:
    layers = [{"name": layer.name, "page": path} for layer, path in zip(report.layers, paths, strict=True)]
    return filled(
        "overview.html",
        (*COMMON, "overview.js"),
        STYLES,
        title=report.title,
        report=report,
        layers=list(zip(summaries, paths, strict=True)),
        with_truth=any(summary.num_truths for summary in summaries),
        cut=None if report.cut is None else scale.share(report.cut),
        scale=scale,
        max_rejects=MAX_REJECTS,
        payload={"base": "data/", "layers": layers},
    )


def _layer(report: Report, summaries: Any, paths: list[str], number: int) -> str:
    summary = summaries[number]
    siblings = [path.removeprefix("layers/") for path in paths]
    return filled(
        "layer.html",
        (*COMMON, *OF_LAYER),
        STYLES,
        title=f"{summary.name} · {report.title}",
        report=report,
        summary=summary,
        before=(summaries[number - 1].name, siblings[number - 1]) if number > 0 else None,
        after=(summaries[number + 1].name, siblings[number + 1]) if number + 1 < len(summaries) else None,
        payload={
            "base": "../data/",
            "layer": number,
            "layers": [
                {"name": layer.name, "page": page} for layer, page in zip(report.layers, siblings, strict=True)
            ],
            "cut": report.cut,
            "neuronsPerChunk": NEURONS,
            "imagesPerChunk": IMAGES,
        },
    )
