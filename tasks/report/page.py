"""The report as one HTML file that opens from disk: no server, no network, nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.report.payload import payload
from tasks.report.rows import Report
from tasks.report.summary import summarise

HERE = Path(__file__).parent
MAX_REJECTS = 200  # rows on the page; a heap of a million images may have refused thousands


def render(report: Report, thumbnails: Mapping[str, bytes]) -> str:
    """The whole page; `thumbnails` holds JPEG bytes per image key, a missing one shows a placeholder.

    Every string of `report` is shown as text, whatever it contains. The result encodes to UTF-8
    even where file names held bytes that are not.
    """
    return filled(
        "page.html",
        ("cards.js", "page.js"),
        ("page.css",),
        report=report,
        summaries=summarise(report.layers),
        max_rejects=MAX_REJECTS,
        payload=payload(report.layers, thumbnails),
    )


def filled(template: str, scripts: Sequence[str], styles: Sequence[str], **values: Any) -> str:
    """A template of this folder with scripts and styles in it, and a policy that admits just that script."""
    script, style = (
        "\n".join((HERE / name).read_text(encoding="utf-8") for name in names) for names in (scripts, styles)
    )
    html = (
        _environment()
        .get_template(template)
        .render(
            **values,
            style=style,
            script=script,
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )
    )
    # Python keeps undecodable bytes of a file name as lone surrogates, which no file could be written with.
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `tojson` writes <, >, & and ' as escapes, and all that is not ASCII, U+2028 included.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.globals["link"] = _link
    return environment


def _link(**state: str) -> str:
    """The address of a view of the page: `#layer=layer4&q=dog`, as `page.js` reads it."""
    return "#" + urlencode(state, errors="replace")
