"""The file as written, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from tasks.report.page import MAX_REJECTS, render
from tasks.report.rows import Label, Layer, Neuron, Report, TopImage
from tests.test_report.conftest import make_neuron

HOSTILE = "</script><img src=x onerror=alert(1)>\"><b>'&\u2028"


def data_of(html: str) -> Any:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_head_names_the_run(report: Report) -> None:
    html = render(report, {})
    assert html.startswith("<!doctype html>")
    assert "<title>A small report</title>" in html
    assert "<dt>Network</dt><dd>torchvision:resnet18</dd>" in html


def test_layers_are_counted(report: Report) -> None:
    html = " ".join(render(report, {}).split())
    assert "4 neurons, 1 dead, 2 distinct labels, 2 of 4 right (50.0 %)" in html
    assert "1 neuron, 0 dead, 1 distinct label <" in html
    assert 'href="#q=%22dog%22&amp;rank=first&amp;layer=fc"' in html


def test_nothing_is_fetched(report: Report, thumbnails: dict[str, bytes]) -> None:
    html = render(report, thumbnails)
    assert not re.search(r"https?://|@import|\burl\(", html)
    assert re.findall(r'<(?:link|script|img)[^>]*(?:src|href)="([^"]*)', html) == ["data:,"]


def test_policy_admits_the_script_as_written(report: Report) -> None:
    html = render(report, {})
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_each_thumbnail_is_embedded_once(report: Report, thumbnails: dict[str, bytes]) -> None:
    html = render(report, thumbnails | {"unused.png": b"never shown"})
    for key in ("a.png", "b.png"):
        assert html.count(base64.b64encode(thumbnails[key]).decode()) == 1
    assert len(data_of(html)["thumbnails"]) == 2


def test_missing_thumbnail_is_none(report: Report, thumbnails: dict[str, bytes]) -> None:
    data = data_of(render(report, {"a.png": thumbnails["a.png"]}))
    assert dict(zip(data["images"], data["thumbnails"], strict=True))["b.png"] is None


def test_neurons_are_packed_by_number(report: Report) -> None:
    data = data_of(render(report, {}))
    assert data["concepts"][:4] == ["dog", "hound", "cat", "hot dog"]
    dog, _, dead, _ = data["layers"][0]["neurons"]
    assert dog == [0, 0, [0, 2.0, -20.0, -21.0, 1, 1.75, -20.0, -21.0], [0, 5.0, 1, 4.0], 0]
    assert dead == [2, 1, [], [], data["concepts"].index("owl")]


def test_numbers_json_cannot_hold_become_null() -> None:
    label = Label("dog", float("nan"), float("-inf"), None)
    neuron = Neuron(0, False, (label,), (TopImage("a", float("inf")),))
    data = data_of(render(Report("t", (), (Layer("fc", (neuron,)),)), {}))
    assert data["layers"][0]["neurons"][0][2:4] == [[0, None, None, None], [0, None]]


def test_hostile_strings_are_escaped() -> None:
    neuron = Neuron(0, False, (Label(HOSTILE, 1.0, None, None),) * 2, (TopImage(HOSTILE, 1.0),), HOSTILE)
    pairs = ((HOSTILE, HOSTILE),)
    layer = Layer(HOSTILE, (neuron, neuron))
    html = render(Report(HOSTILE, pairs, (layer,), rejects=pairs, notes=(HOSTILE,)), {HOSTILE: b"jpeg"})
    assert "<img" not in html
    assert "<b>" not in html
    assert html.count("<script") == html.count("</script>") == 2
    data = data_of(html)
    assert data["concepts"] == data["images"] == [HOSTILE]
    assert data["layers"][0]["name"] == HOSTILE
    written = html[html.index('id="data">') + 10 : html.rindex("</script>\n<script>")]
    assert not re.search("[<>&'\u2028\u2029]", written)


def test_undecodable_file_names_can_be_written() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    neuron = Neuron(0, False, (Label(name, 1.0, None, None),), (TopImage(name, 1.0),))
    report = Report(name, (), (Layer(name, (neuron, neuron)),), rejects=((name, "not an image"),))
    assert b"caf\\udce9.jpg</td>" in render(report, {name: b"jpeg"}).encode("utf-8")


@pytest.mark.parametrize(
    "layers", [(), (Layer("empty", ()),), (Layer("dead", (make_neuron(0),)),)], ids=["none", "empty", "dead"]
)
def test_little_to_show(layers: tuple[Layer, ...]) -> None:
    html = render(Report("Little", (), layers), {})
    assert len(data_of(html)["layers"]) == len(layers)


def test_long_lists_of_rejects_are_cut_and_say_so() -> None:
    rejects = tuple((f"{i}.jpg", "truncated") for i in range(MAX_REJECTS + 5))
    html = render(Report("t", (), (), rejects=rejects), {})
    assert html.count("<td>truncated</td>") == MAX_REJECTS
    assert "205 inputs refused" in html
    assert "The first 200 of 205" in html
