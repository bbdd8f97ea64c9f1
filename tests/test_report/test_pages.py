"""The folder as written, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tasks.report import payload
from tasks.report.page import HERE
from tasks.report.pages import MAX_REJECTS, OURS, pages
from tasks.report.payload import IMAGES, NEURONS
from tasks.report.rows import Activations, Label, Layer, Neuron, Report, TopImage
from tests.test_report.conftest import make_neuron

HOSTILE = "</script><img src=x onerror=alert(1)>\"><b>'&\u2028"


def texts(report: Report, thumbnails: dict[str, bytes] | None = None) -> dict[str, str]:
    """All files by their paths."""
    return {path: data.decode() for path, data in pages(report, thumbnails or {})}


def put(script: str, name: str) -> Any:
    """What a script of `data/` gives its page."""
    found = re.fullmatch(rf'put\("{name}",(.*)\);\n', script)
    assert found is not None
    return json.loads(found[1])


def test_a_folder_has_an_overview_a_page_per_layer_and_what_these_load(report: Report) -> None:
    files = texts(report)
    assert sorted(files) == [
        *("data/0-index.js", "data/0-neurons-0.js", "data/1-index.js", "data/1-neurons-0.js", "data/images-0.js"),
        *("index.html", "layers/0-fc.html", "layers/1-conv1.html"),
    ]
    assert all(OURS.fullmatch(path) for path in files)


def test_the_overview_names_the_run_and_its_layers(report: Report) -> None:
    html = " ".join(texts(report)["index.html"].split())
    assert html.startswith("<!doctype html>")
    assert "<title>A small report</title>" in html
    assert "<dt>Network</dt><dd>torchvision:resnet18</dd>" in html
    assert '<a href="layers/0-fc.html">fc</a>' in html
    assert '4 neurons, 2 labels, <a href="layers/0-fc.html#show=dead">1 dead</a>' in html
    assert "1 neuron, 1 label</p>" in html
    assert 'href="layers/0-fc.html#concept=dog"' in html  # the label that two bear
    assert ">2 of 4</span>" in html  # interpretable, and right


def test_only_data_and_pages_of_the_folder_are_named(report: Report, thumbnails: dict[str, bytes]) -> None:
    for path, text in texts(report, thumbnails).items():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|\burl\(", text), path
        links = re.findall(r'<(?:link|script|img|a)[^>]*(?:src|href)="([^"#]*)', text)
        assert {link.removeprefix("../") for link in links} <= {
            *("", "data:,", "index.html", "layers/0-fc.html", "layers/1-conv1.html", "0-fc.html", "1-conv1.html")
        }


def test_the_policy_admits_script_and_style_as_written(report: Report) -> None:
    for path, html in texts(report).items():
        if not path.endswith(".html"):
            continue
        for tag, rule in (("script", "script-src"), ("style", "style-src")):
            found = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
            assert found is not None
            digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
            assert f"{rule} 'sha256-{digest}'" in html
        assert "unsafe" not in html


def test_each_thumbnail_is_written_once(report: Report, thumbnails: dict[str, bytes]) -> None:
    whole = "".join(texts(report, thumbnails | {"unused.png": b"never shown"}).values())
    for key in ("a.png", "b.png"):
        assert whole.count(base64.b64encode(thumbnails[key]).decode()) == 1
        assert whole.count(f'"{key}"') == 1
    assert "unused" not in whole


def test_a_missing_thumbnail_is_none(report: Report, thumbnails: dict[str, bytes]) -> None:
    images = put(texts(report, {"a.png": thumbnails["a.png"]})["data/images-0.js"], "images-0")
    assert [key for key, _ in images] == ["a.png", "b.png"]
    assert images[0][1] is not None and images[1][1] is None


def test_an_index_has_columns_of_all_that_is_searched_and_sorted(report: Report) -> None:
    index = put(texts(report)["data/0-index.js"], "0-index")
    assert index["concepts"][:4] == ["dog", "hound", "cat", "hot dog"]
    assert index["labels"] == [0, 1, 2, 3, -1, -1, 0, 4]
    assert index["similarity"] == [2.0, 3.0, None, 1.0]
    dead, cut, interpretable, truth, right = 1, 4, 8, 16, 32
    above = cut | interpretable | truth
    assert index["flags"] == [above | right, above, dead | truth, cut | truth | right]
    assert [index["concepts"][truth] for truth in index["truths"]] == ["dog", "fox", "owl", "dog"]


def test_details_are_packed_by_number_and_an_input_has_its_label(report: Report) -> None:
    files = texts(report)
    dog, _, dead, _ = put(files["data/0-neurons-0.js"], "0-neurons-0")
    sky = put(files["data/0-index.js"], "0-index")["concepts"].index("sky")
    assert dog == [
        [2.0, -20.0, -22.0, 0.25, 0.5, 1, 1.75, -20.0, -21.75, 0.25, 0.5, 1],
        [0, 5.0, 1, 4.0],
        [["0.1 %", [0, 5.0]], ["5 %", [1, 4.0]]],
        [0.5, 0.25, 0.0, 5.0, [0.0, 2.5, 5.0], [97, 3]],
        [[by, other, 0.5] for by in ("activation", "label") for other in (1, 3)],
        [[1, 0, 0.5, sky], [-1, 7, -0.25, -1]],
    ]
    assert dead == [[], [], [], None, [], []]


def test_numbers_json_cannot_hold_become_null() -> None:
    label = Label("dog", float("nan"), float("-inf"), None)
    of = Activations(float("nan"), 0.0, 0.0, float("inf"), (0.0, 1.0), (2,))
    neuron = replace(Neuron(0, False, (label,), (TopImage("a", float("inf")),)), activations=of)
    packed = put(texts(Report("t", (), (Layer("fc", (neuron,)),)))["data/0-neurons-0.js"], "0-neurons-0")[0]
    assert packed[:2] == [[None] * 6, [0, None]]
    assert packed[3] == [None, 0.0, 0.0, None, [0.0, 1.0], [2]]


def test_large_layers_come_in_chunks_in_which_each_neuron_and_image_is_found() -> None:
    neurons = tuple(
        replace(make_neuron(i, "x"), top_images=(TopImage(f"{i}.png", i),)) for i in range(2 * NEURONS + 1)
    )
    files = texts(Report("t", (), (Layer("fc", neurons),)))
    for i in (0, NEURONS - 1, NEURONS, 2 * NEURONS):
        chunk = put(files[f"data/0-neurons-{i // NEURONS}.js"], f"0-neurons-{i // NEURONS}")
        image, activation = chunk[i % NEURONS][1]
        images = put(files[f"data/images-{image // IMAGES}.js"], f"images-{image // IMAGES}")
        assert images[image % IMAGES][0] == f"{i}.png" and activation == i
    assert "data/0-neurons-3.js" not in files


def test_images_that_are_seen_together_lie_together(report: Report) -> None:
    # Those of lists first: a list loads nothing that only cards show.
    first = replace(report.layers[0].neurons[0], ranges=report.layers[0].neurons[0].ranges[:1])
    drawn = replace(first.ranges[0], images=(TopImage("drawn.png", 1.0),))
    last = replace(make_neuron(1, "x"), top_images=(TopImage("last.png", 1.0),))
    files = texts(Report("t", (), (Layer("fc", (replace(first, ranges=(drawn,)), last)),)))
    keys = [key for key, _ in put(files["data/images-0.js"], "images-0")]
    assert keys == ["a.png", "b.png", "last.png", "drawn.png"]


def test_hostile_strings_are_escaped() -> None:
    neuron = Neuron(0, False, (Label(HOSTILE, 1.0),) * 2, (TopImage(HOSTILE, 1.0),), HOSTILE)
    pairs = ((HOSTILE, HOSTILE),)
    layers = (Layer(HOSTILE, (neuron, neuron)), Layer("../../" + HOSTILE, (neuron,)), Layer("é", ()))
    files = texts(
        Report(HOSTILE, pairs, layers, rejects=pairs, notes=(HOSTILE,), origin=pairs, spec=pairs),
        {HOSTILE: b"jpeg"},
    )
    assert all(OURS.fullmatch(path) for path in files)
    for path, text in files.items():
        assert "<img" not in text or path.endswith(".js"), path
        assert "<b>'" not in text or path.endswith(".js"), path
        if path.endswith(".html"):
            assert text.count("<script") == text.count("</script>") == 2
            written = text[text.index('id="data">') + 10 : text.rindex("</script>\n<script>")]
            assert not re.search("[<>&'\u2028\u2029]", written)
        else:
            assert text.isascii()
    assert put(files["data/0-index.js"], "0-index")["concepts"] == [HOSTILE]
    assert put(files["data/images-0.js"], "images-0")[0][0] == HOSTILE


def test_undecodable_file_names_can_be_written() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    neuron = Neuron(0, False, (Label(name, 1.0),), (TopImage(name, 1.0),))
    layer = Layer(name, (neuron, neuron))
    files = texts(Report(name, (), (layer,), rejects=((name, "not an image"),)), {name: b"jpeg"})
    assert "caf\\udce9.jpg</td>" in files["index.html"]


@pytest.mark.parametrize(
    "layers", [(), (Layer("empty", ()),), (Layer("dead", (make_neuron(0),)),)], ids=["none", "empty", "dead"]
)
def test_little_to_show(layers: tuple[Layer, ...]) -> None:
    files = texts(Report("Little", (), layers))
    assert len([path for path in files if path.startswith("layers/")]) == len(layers)


def test_long_lists_of_rejects_are_cut_and_say_so() -> None:
    rejects = tuple((f"{i}.jpg", "truncated") for i in range(MAX_REJECTS + 5))
    html = texts(Report("t", (), (), rejects=rejects))["index.html"]
    assert html.count("<td>truncated</td>") == MAX_REJECTS
    assert "205 inputs refused" in html
    assert "The first 200 of 205" in html


def test_flags_are_the_same_bits_in_both_languages() -> None:
    bits = dict(re.findall(r"([A-Z_]+) = (\d+)[,;]", (HERE / "rows.js").read_text()))
    names = ("DEAD", "NEARLY_CONSTANT", "CUT_KNOWN", "INTERPRETABLE", "TRUTH_KNOWN", "RIGHT")
    assert {name: int(bits[name]) for name in names} == {name: getattr(payload, name) for name in names}
