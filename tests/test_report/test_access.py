"""Pages as they reach people: on a phone, on paper, in the dark, and through a screen reader by the rules of axe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.report.rate_page import render_questions
from tasks.report.rows import Layer, Neuron, Report
from tests.test_report.conftest import Write, make_neuron
from tests.test_report.devtools import Page
from tests.test_report.test_rate_page import ASKED

AXE = (Path(__file__).parent / "axe.min.js").read_text(encoding="utf-8")
CARD, LIST = "document.querySelector('#card .facts-of')", "document.querySelector('#neurons .label')"
VIEWS = {
    "overview": ("index.html", "", "true"),
    "found": ("index.html", "#q=dog", "document.querySelector('#found li')"),
    "list": ("layers/0-fc.html", "", LIST),
    "filtered": ("layers/0-fc.html", "#q=hot&from=1&concept=cat", LIST),
    "nothing found": ("layers/0-fc.html", "#q=zebra", "!document.getElementById('none').hidden"),
    "card": ("layers/0-fc.html", "#neuron=0", CARD),
    "dead card": ("layers/0-fc.html", "#neuron=2", CARD),
    "rate": ("rate.html", "", "true"),
}


@pytest.fixture
def folder(write: Write, report: Report, thumbnails: dict[str, bytes]) -> Path:
    found = write(report)
    jpegs = dict.fromkeys((3, *range(40, 50)), thumbnails["a.png"])
    (found / "rate.html").write_text(render_questions(ASKED, jpegs), encoding="utf-8")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(page: Page, folder: Path, view: str, scheme: str) -> None:
    path, state, is_there = VIEWS[view]
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(folder / path, state)
    page.until(is_there)
    page.value(AXE + "; true")
    found = page.value(
        "axe.run().then(({ violations, passes }) => ({ passes: passes.length, violations: violations.flatMap("
        "({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`)) }))"
    )
    assert found["violations"] == []
    assert found["passes"] > 15  # it has looked


#: What of a row reaches below it, or over what stands under it. A line of tags that has no room is not shown.
OVERLAPS = """
[...document.querySelectorAll('#neurons > li.neuron')].flatMap((row) => {
  const boxes = (found) => [...row.querySelectorAll(found)].map((node) => node.getBoundingClientRect());
  const [[what], [tags], [seen], [further]] = ['.what', '.score', '.seen', '.further'].map(boxes);
  const parts = boxes('h2, .score > *').filter(({ height, top }) => height > 0 && top < tags.bottom - 0.5);
  const images = boxes('.images li').filter(({ height }) => height > 0);
  const isBeside = seen.left >= what.right;
  const over = (above, end, name) => above.map(({ bottom }) => [name, bottom - end]).filter(([, by]) => by > 0.5);
  return [
    ...over([...parts, further], row.getBoundingClientRect().bottom, 'the row ends'),
    ...over(isBeside ? [] : parts, seen.top, 'images begin'),
    ...over(images, further.top, 'further labels begin'),
    ...(images.length >= 5 && further.height > 10 ? [] : ['not shown']),
  ];
})
"""


@pytest.mark.parametrize("width", [320, 375, 500, 639, 641, 895, 897, 1280])
def test_a_row_holds_label_tags_images_and_further_labels_at_any_width(page: Page, write: Write, width: int) -> None:
    def full(index: int, concept: str, truth: str) -> Neuron:
        neuron = make_neuron(index, concept, "hound", "wolf", concept, "fox", truth=truth)
        return replace(neuron, top_images=neuron.top_images * 5, is_nearly_constant=True)

    neurons = (full(0, "dog", "owl"), full(1, "a label of several words " * 5, "a name that is long " * 5))
    folder = write(Report("Rows", (), (Layer("fc", neurons),), cut=1.5))
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=812, deviceScaleFactor=1, mobile=True)
    page.open(folder / "layers" / "0-fc.html")
    page.until("document.querySelectorAll('#neurons img').length === 20")
    assert page.value(OVERLAPS) == []


@pytest.mark.parametrize("width", [320, 375, 768])
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_phone(page: Page, folder: Path, view: str, width: int) -> None:
    path, state, is_there = VIEWS[view]
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=812, deviceScaleFactor=1, mobile=True)
    page.open(folder / path, state)
    page.until(is_there)
    assert page.value("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("view", ["overview", "card"])
def test_paper_is_white_and_has_no_controls(page: Page, folder: Path, view: str) -> None:
    path, state, is_there = VIEWS[view]
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.send("Emulation.setEmulatedMedia", media="print", features=dark)
    page.open(folder / path, state)
    page.until(is_there)
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    controls = "[...document.querySelectorAll('button, input, select')]"
    assert page.value(f"{controls}.every((control) => control.offsetParent === null)")
    assert page.send("Page.printToPDF", printBackground=True)["data"].startswith("JVBER")  # %PDF
