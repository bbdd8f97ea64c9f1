"""Pages from templates of this folder: one HTML file each, with its scripts and styles in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent


def filled(template: str, scripts: Sequence[str], styles: Sequence[str], **values: Any) -> str:
    """A template with a policy that admits its style, its script, and what that script loads; nothing else runs.

    Every string is shown as text, whatever it contains. The result encodes to UTF-8 even where file names held bytes
    that are not.
    """
    script, style = (
        "\n".join((HERE / name).read_text(encoding="utf-8") for name in names) for names in (scripts, styles)
    )
    html = (
        _environment()
        .get_template(template)
        .render(
            **values,
            style=style,
            style_digest=_digest(style),
            script=script,
            script_digest=_digest(script),
        )
    )
    # Python keeps undecodable bytes of a file name as lone surrogates, which no file could be written with.
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


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
    environment.filters["percent"] = lambda share: f"{100 * share:.{0 if share in (0, 1) else 1}f} %"
    environment.globals["link"] = _link
    return environment


def _link(page: str = "", **state: str) -> str:
    """The address of a view of a page: `layers/2-layer4.html#q=dog`, as `layer.js` reads it."""
    state = {name: value for name, value in state.items() if value}
    return quote(page) + (f"#{urlencode(state, errors='replace')}" if state else "")
