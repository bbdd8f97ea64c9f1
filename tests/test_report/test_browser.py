"""The page in a real browser, opened from disk."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from tasks.report.rows import Layer, Neuron, Report, TopImage
from tests.test_report.conftest import Open, make_neuron

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"><b onclick=alert(1)>'",
    "<!--<script>",
    "javascript:alert(1)//\u2028\u2029&amp;",
)


class Tags(HTMLParser):
    """The elements of a page, as (name, attributes)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))


def first_labels(dom: str) -> list[str]:
    """The labels of the cards, from the top of the page down."""
    found = re.findall(r'<span class="label[^"]*">(.*?)</span></h3>', dom)
    return [re.sub(r"<[^>]+>", "", label) for label in found]


def test_cards_of_all_layers(report: Report, open_page: Open) -> None:
    dom = open_page(report)
    assert first_labels(dom) == ["dog", "cat", "dead", "dog", "sky"]
    assert ">5 neurons</output>" in dom
    assert dom.count("<img ") == 8
    assert dom.count(">✓ right<") == 2
    assert dom.count(">✗ right is <") == 2
    assert 'title="a.png\nactivation 5"' in dom


def test_address_holds_search_order_and_layer(report: Report, open_page: Open) -> None:
    dom = open_page(report, "#q=DOG&sort=similarity&layer=fc")
    assert first_labels(dom) == ["cat", "dog", "dog"]
    assert "<mark>hot dog</mark>" in dom
    assert ">3 of 5 neurons</output>" in dom


def test_an_address_from_elsewhere_is_ignored(report: Report, open_page: Open) -> None:
    dom = open_page(report, "#sort=nonsense&layer=nonsense&show=&zoom=7&%E0%A4%A")
    assert first_labels(dom) == ["dog", "cat", "dead", "dog", "sky"]


def test_nothing_found_is_said(report: Report, open_page: Open) -> None:
    dom = open_page(report, "#q=zebra")
    assert first_labels(dom) == []
    assert ">No neuron matches</output>" in dom
    assert '<p id="none" class="more">' in dom


def test_quoted_search_in_first_labels_of_right_neurons_by_label(report: Report, open_page: Open) -> None:
    dom = open_page(report, "#q=%22dog%22&rank=first&show=right&sort=label")
    assert first_labels(dom) == ["dog", "dog"]


def test_hostile_names_stay_text(open_page: Open) -> None:
    neurons = tuple(
        Neuron(i, False, make_neuron(i, name).labels, (TopImage(name, 1.0),), truth=name)
        for i, name in enumerate(HOSTILE)
    )
    pairs = tuple((name, name) for name in HOSTILE)
    layers = tuple(Layer(name, neurons) for name in HOSTILE)
    dom = open_page(Report(HOSTILE[0], pairs, layers, rejects=pairs, notes=HOSTILE))
    assert dom.count('<li class="neuron">') == len(HOSTILE) ** 2
    tags = Tags(dom).found
    names = [name for name, _ in tags]
    assert names.count("script") == 2
    assert not {"img", "b"} & set(names)  # neither thumbnails nor wrong labels here, so none is ours
    assert not [key for _, attributes in tags for key in attributes if key.startswith("on")]
    assert {attributes["href"][:1] for name, attributes in tags if name == "a"} == {"#"}
    assert "<title>owned" not in dom


def test_a_large_layer_is_drawn_in_batches(open_page: Open) -> None:
    layer = Layer("layer4", tuple(make_neuron(i, f"concept {i % 9}") for i in range(3000)))
    dom = open_page(Report("Large", (), (layer,)))
    assert 40 <= dom.count('<li class="neuron">') <= 400
    assert ">3,000 neurons</output>" in dom
