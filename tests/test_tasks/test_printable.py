"""Names and labels of anybody's, in a terminal and as Markdown: shown, and never acted on."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.markdown import Markdown

from flows.engine.failure import fail
from flows.engine.terminal import TerminalProgress
from storage.files import Folder
from tasks.announce import announcement
from tasks.printable import printable, printable_lines
from tasks.show import Filter, labels_tables, run_lines
from tests.fuzzing import write_published

HOSTILE = (
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31mcsi\x90q\x9c",
    "back\x08\x08\x08\rover",
    "[red]markup[/red] [link=http://evil]x[/link] \\[bold]",
    "[/]",
    ":skull: \u202egpj.exe\u2066\u2028next",
    "| a | b |\n# title\n<img src=x onerror=alert(1)> `code` [x](javascript:alert(1)) ![i](http://evil/i.png)",
    "https://evil.example/ www.evil.example <https://evil.example> &lt;b&gt; ~~gone~~ $x$ \\",
)
#: What acts on a terminal, of all that may be printed; a line break is our own.
ACTS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(params=HOSTILE, ids=ascii)
def hostile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def out(tmp_path: Path, hostile: str) -> Folder:
    """A published run, all of whose names are hostile."""
    return write_published(tmp_path, layer=hostile, concept=hostile, note=hostile, target=hostile)


def printed(*what: Any) -> str:
    console = Console(file=io.StringIO(), highlight=False, soft_wrap=True, emoji=False, width=400)
    for one in what:
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_text_is_shown_with_what_would_act_written_out(hostile: str) -> None:
    assert not ACTS.search(printable(hostile) + printable_lines(hostile))
    assert "\n" not in printable(hostile)
    assert printable("Größe, 犬 👩‍🚀\n") == "Größe, 犬 👩‍🚀\\n" and printable_lines("a\nb") == "a\nb"


def test_tables_and_lines_show_names_as_they_are(out: Folder, hostile: str) -> None:
    from tasks.published import read_run

    tables = printed(*labels_tables(out.url, Filter()))
    lines = printed(*run_lines(read_run(out), out, 8))
    for text in (tables, lines):
        assert not ACTS.search(text)
        assert printable(hostile) in text


def test_errors_and_notes_show_names_as_they_are(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=io.StringIO(), width=400)
    TerminalProgress(console).noted(hostile)
    with pytest.raises(SystemExit):
        fail(hostile, 1)
    assert isinstance(console.file, io.StringIO)
    for text in (console.file.getvalue(), capsys.readouterr().err):
        assert not ACTS.search(text)
    assert printable(hostile) in console.file.getvalue()


def test_markdown_shows_names_as_they_are(out: Folder, hostile: str) -> None:
    text = announcement(out)
    html = rendered(text)
    assert not re.search(r"<(img|a|h[2-6]|del|em|strong|script)\b", html), html
    assert html.count("<h1>") == 1 and html.count("<table>") == 1
    assert html.count("<code>") == 5  # paths and names of files
    assert html.count("<tr>") == 2  # the head, and the layer
    shown = printed(Markdown(printable_lines(text), hyperlinks=False))
    assert not ACTS.search(shown)


def rendered(text: str) -> str:
    """As a page would show it, addresses linked too."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("js-default", {"linkify": False, "html": True}).render(text))
