"""The report in a real browser, opened from disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.report.rows import Layer, Neuron, Range, Report, TopImage
from tests.test_report.conftest import Write, make_neuron, with_details
from tests.test_report.devtools import Page

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"><b onclick=alert(1)>'",
    "<!--<script>",
    "javascript:alert(1)//\u2028\u2029&amp;",
    "\u202eright to left \u05d0\u05d1\u05d2",
    "long" * 300,
    "__proto__",
)
#: And what no CSV could hold.
STRANGE = ("half a character \udce9", *HOSTILE)


#: Labels of the rows, from the top down.
LABELS = "[...document.querySelectorAll('#neurons .label')].map((node) => node.textContent)"


def labels(page: Page) -> list[str]:
    found: list[str] = page.value(LABELS)
    return found


def opened(page: Page, path: Path, state: str = "") -> Page:
    """A page of the report whose data has come."""
    page.open(path, state)
    page.until("document.querySelector('.trouble').hidden && (typeof index === 'undefined' || index !== null)")
    return page


def card(page: Page) -> Page:
    """A card whose details have come."""
    page.until("document.querySelector('#card .facts-of') !== null")
    return page


@pytest.fixture
def fc(page: Page, write: Write, report: Report) -> Page:
    """The page of the layer `fc`."""
    return opened(page, write(report) / "layers" / "0-fc.html")


def test_rows_have_labels_scores_and_images(fc: Page) -> None:
    assert labels(fc) == ["dog", "cat", "dead", "dog"]
    assert fc.text("#status") == "4 neurons"
    fc.until("document.querySelectorAll('#neurons img').length === 6")
    assert fc.value("document.querySelector('#neurons img').title") == "a.png\nactivation 5"
    tags = fc.value("[...document.querySelectorAll('#neurons .score')].map((node) => node.innerText)")
    assert ["right" in tag for tag in tags] == [True, True, True, True]
    assert "fox" in tags[1] and "not interpretable" in tags[3]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("q=DOG", ["dog", "cat", "dog"]),
        ("q=%22dog%22", ["dog", "dog"]),
        ("q=%22dog%22&rank=first&show=right&sort=label", ["dog", "dog"]),
        ("q=%231", ["cat"]),
        ("q=zebra", []),
        ("concept=hot+dog", ["cat"]),
        ("concept=hot+dog&rank=first", []),
        ("show=interpretable", ["dog", "cat"]),
        ("show=uninterpretable", ["dead", "dog"]),
        ("show=dead", ["dead"]),
        ("show=wrong", ["cat", "dead"]),
        ("from=1.5&to=2.5", ["dog"]),
        ("from=nonsense", ["dog", "cat", "dead", "dog"]),
        ("sort=similarity", ["cat", "dog", "dog", "dead"]),
        ("sort=label", ["cat", "dog", "dog", "dead"]),
        ("sort=nonsense&show=&zoom=7&neuron=99&%E0%A4%A", ["dog", "cat", "dead", "dog"]),
    ],
)
def test_the_address_holds_search_filters_and_order(fc: Page, state: str, expected: list[str]) -> None:
    fc.value(f"location.hash = {json.dumps(state)}")
    fc.until(f"{LABELS}.join() === {json.dumps(','.join(expected))}")
    assert fc.value("document.getElementById('none').hidden") == bool(expected)


def test_what_is_typed_is_found_marked_and_kept_in_the_address(fc: Page) -> None:
    fc.press("/")
    fc.type("hot")
    assert labels(fc) == ["cat"]
    assert fc.text("mark") == "hot dog"
    assert fc.text("#status") == "1 of 4 neurons"
    assert fc.value("location.hash") == "#q=hot"
    fc.press("Escape")
    assert len(labels(fc)) == 4 and fc.value("location.hash") == ""


def test_keys_move_open_step_and_go_back(fc: Page) -> None:
    focused = "document.activeElement.querySelector?.('.index')?.textContent"
    fc.press("j")
    assert fc.value(focused) == "Neuron 0"
    fc.press("j", "ArrowDown", "k")
    assert fc.value(focused) == "Neuron 1"
    fc.press("Enter")
    assert card(fc).text("#card h1 .label") == "cat"
    assert fc.value("location.hash") == "#neuron=1"
    fc.press("j", "j")
    assert card(fc).text("#card h1 .label") == "dog"
    fc.press("j")  # there is no further one
    assert fc.value("location.hash") == "#neuron=3"
    fc.press("Escape")
    assert fc.value(focused) == "Neuron 3" and fc.value("document.getElementById('card').hidden")
    fc.value("history.back()")
    fc.until("!document.getElementById('card').hidden")
    assert fc.value("location.hash") == "#neuron=3"
    fc.press("/")
    fc.type("hot")
    assert labels(fc) == ["cat"]


def test_a_card_tells_all_that_is_known(fc: Page) -> None:
    fc.value("location.hash = 'neuron=0'")
    text = " ".join(card(fc).text("#card").split())
    for told in (
        "Neuron 0 dog",
        "2.00",
        "✓ right",
        "7.4×",
        "Most",
        "0.1 %",
        "mean 0.5",
        "100 images",
        "Null quantile",
    ):
        assert told.lower() in text.lower(), told
    heads = fc.value("[...document.querySelectorAll('#card h2')].map((node) => node.textContent)")
    assert heads == [
        *("Top images", "Labels", "Images of its most active"),
        *("Activations", "Nearest by activation", "Nearest by label", "Strongest inputs"),
    ]
    assert fc.value("document.querySelector('.labels td[title]').title") == (
        "log-prior −22.00, log-likelihood −20.00: 7.4× as likely as of the layer's neurons on average"
    )
    assert fc.value("document.title") == "fc 0: dog"


def test_a_card_shows_no_more_than_is_known(page: Page, write: Write, report: Report) -> None:
    opened(page, write(report) / "layers" / "1-conv1.html", "#neuron=0")
    card(page)
    assert page.value("[...document.querySelectorAll('#card h2')].map((node) => node.textContent)") == [
        *("Top images", "Labels")
    ]


def test_links_lead_to_neighbours_inputs_and_other_layers(fc: Page) -> None:
    fc.value("location.hash = 'q=dog&neuron=0'")
    card(fc).value("document.querySelector('.near a').click()")
    fc.until("document.querySelector('#card h1 .label').textContent === 'cat'")
    assert fc.value("location.hash") == "#q=dog&neuron=1"
    fc.value("history.back()")
    fc.until("document.querySelector('#card h1 .label').textContent === 'dog'")
    card(fc).value("[...document.querySelectorAll('.near a')].at(-1).click()")
    fc.wait_for("Page.loadEventFired")
    assert card(fc).text("#card h1 .label") == "sky"
    assert fc.value("location.href").endswith("/layers/1-conv1.html#neuron=0")
    fc.value("document.querySelector('[rel=prev]').click()")
    fc.wait_for("Page.loadEventFired")
    fc.until("document.querySelectorAll('#neurons .label').length === 4")


def test_a_label_of_a_card_leads_to_all_neurons_that_have_it(fc: Page) -> None:
    fc.value("location.hash = 'neuron=3'")
    card(fc).value("document.querySelector('.labels a').click()")
    fc.until("document.getElementById('card').hidden")
    assert labels(fc) == ["dog", "dog"]
    fc.value("document.getElementById('concept').click()")
    assert len(labels(fc)) == 4 and fc.value("document.getElementById('concept').hidden")


def test_dragging_over_the_distribution_sets_the_range(fc: Page) -> None:
    rect = "document.getElementById('distribution').getBoundingClientRect()"
    left, top, width = fc.value(f"(({{ left, top, width }}) => [left, top + 10, width])({rect})")
    for kind, at in (("mousePressed", 0.4), ("mouseMoved", 0.6), ("mouseReleased", 0.6)):
        where: dict[str, Any] = {"x": left + at * width, "y": top, "button": "left", "clickCount": 1}
        fc.send("Input.dispatchMouseEvent", type=kind, **where)
    assert labels(fc) == ["dog"]  # 2.0, of 1.0 to 3.0
    assert fc.value("document.querySelectorAll('#distribution .out').length") > 10


def test_the_overview_finds_a_concept_in_all_layers(page: Page, write: Write, report: Report) -> None:
    opened(page, write(report) / "index.html")
    page.press("/")
    page.type("d")
    page.type("og")
    page.until("document.getElementById('status').textContent === '3 neurons in 1 layer'")
    assert " ".join(page.text("#found .found").split()) == "fc 3 neurons 0 dog 3 dog 1 cat 2. hot dog"
    page.value("document.querySelector('#found li a[href$=\"neuron=1\"]').click()")
    page.wait_for("Page.loadEventFired")
    assert card(page).text("#card h1 .label") == "cat"


def test_a_page_whose_data_is_missing_says_so(page: Page, write: Write, report: Report) -> None:
    folder = write(report)
    (folder / "data" / "0-index.js").unlink()
    page.open(folder / "layers" / "0-fc.html")
    page.until("!document.querySelector('.trouble').hidden")
    assert "data/0-index.js cannot be read" in page.text(".trouble")
    assert len(page.said) == 1 and "ERR_FILE_NOT_FOUND" in page.said.pop()


def hostile_report() -> Report:
    def neuron(number: int, name: str) -> Neuron:
        made = with_details(replace(make_neuron(number, name), top_images=(TopImage(name, 1.0),), truth=name), 0)
        return replace(made, ranges=(Range(name, (TopImage(name, 1.0),)),))

    neurons = tuple(neuron(number, name) for number, name in enumerate(STRANGE))
    pairs = tuple((name, name) for name in STRANGE)
    layers = tuple(Layer(name, neurons) for name in STRANGE)
    return Report(STRANGE[0], pairs, layers, rejects=pairs, notes=STRANGE, origin=pairs, spec=pairs)


def test_hostile_names_stay_text(page: Page, write: Write) -> None:
    folder = write(hostile_report())
    paths = [folder / "index.html", *sorted((folder / "layers").iterdir())]
    assert len(paths) == 1 + len(STRANGE)
    for path in paths:
        states = [""] if path.parent == folder else ["", *(f"#neuron={i}" for i in range(len(STRANGE)))]
        for state in states[: 2 if path != paths[1] else None]:  # all cards of one layer
            opened(page, path, state)
            if state:
                card(page)
            assert page.value("document.querySelectorAll('b[onclick], img[src=x], main script').length") == 0
            assert page.value("document.querySelectorAll('script').length") == 2
            assert page.value("document.title") != "owned"
            assert page.value("document.documentElement.scrollWidth <= innerWidth")
            links = page.value("[...document.querySelectorAll('a')].map((link) => link.protocol)")
            assert set(links) == {"file:"}
    assert page.value(f"location.hash = 'neuron={len(STRANGE) - 1}'; true")
    page.until("document.querySelector('#card h1 .label')?.textContent === '__proto__'")


def test_a_search_for_a_hostile_name_finds_it(page: Page, write: Write) -> None:
    folder = write(hostile_report())
    opened(page, next((folder / "layers").glob("0-*")))
    for name in HOSTILE:
        for asked in ({"concept": name}, {"q": f'"{name}"'}):
            page.value(f"location.hash = new URLSearchParams({json.dumps(asked)})")
            page.until(f"{LABELS}.join() === {json.dumps(name)}")


def test_a_large_layer_has_only_the_rows_in_view(page: Page, write: Write) -> None:
    layer = Layer("layer4", tuple(make_neuron(i, f"concept {i % 9}", similarity=i) for i in range(3000)))
    opened(page, write(Report("Large", (), (layer,))) / "layers" / "0-layer4.html")
    count = "document.querySelectorAll('#neurons li.neuron').length"
    assert 5 <= page.value(count) <= 40
    page.value("scrollTo(0, document.body.scrollHeight)")
    page.until("document.querySelector('#neurons').innerText.includes('2999')")
    assert page.value(count) <= 40
    order = page.value(
        "[...document.querySelectorAll('#neurons li.neuron')].map((row) => Number(row.dataset.position))"
    )
    assert order == sorted(order) and order[-1] == 2999
    page.value("document.getElementById('sort').value = 'similarity'")
    page.value("document.getElementById('toolbar').dispatchEvent(new Event('input'))")
    page.until("document.querySelector('#neurons .index').textContent === 'Neuron 2999'")
    page.press("k")  # from the first one: stays
    assert page.value("document.activeElement.textContent").startswith("Neuron 2999")


def test_paper_has_the_first_rows_and_says_how_many_are_left_out(page: Page, write: Write) -> None:
    layer = Layer("layer4", tuple(make_neuron(i, "dog") for i in range(250)))
    opened(page, write(Report("Large", (), (layer,))) / "layers" / "0-layer4.html")
    page.send("Emulation.setEmulatedMedia", media="print")
    page.value("dispatchEvent(new Event('beforeprint'))")
    assert page.value("document.querySelectorAll('#neurons > li.neuron').length") == 200
    tops = page.value(
        "[...document.querySelectorAll('#neurons > li.neuron')].map((row) => row.getBoundingClientRect().top)"
    )
    assert tops == sorted(tops) and len(set(tops)) == 200
    assert page.text("#unprinted") == "50 neurons more are not printed."
    assert page.value("getComputedStyle(document.getElementById('q')).display") == "inline-block" or page.value(
        "document.getElementById('q').offsetParent === null"
    )
    page.value("dispatchEvent(new Event('afterprint'))")
    page.send("Emulation.setEmulatedMedia", media="")
    page.until("document.querySelectorAll('#neurons > li.neuron').length < 200")
