"""Rows and a browser for the tests of the report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tasks.report.pages import pages
from tasks.report.rows import Activations, Input, Label, Layer, Neuron, Range, Report, Similar, TopImage
from tasks.report.thumbnails import thumbnail
from tests.test_report.devtools import Browser, Page, driven

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--window-size=1200,900",
)

#: Writes a report to disk, and gives its folder.
Write = Callable[[Report], Path]


def make_neuron(index: int, *concepts: str, similarity: float = 1.0, truth: str | None = None) -> Neuron:
    """A neuron whose labels fall by 0.25 each, interpretable above 1.5; none given means dead."""
    scores = [(name, similarity - rank / 4) for rank, name in enumerate(concepts)]
    labels = tuple(Label(name, value, -20.0, -20.0 - value, 0.25, 0.5, value > 1.5) for name, value in scores)
    images = tuple(TopImage(key, 5.0 - rank) for rank, key in enumerate(("a.png", "b.png")) if concepts)
    return Neuron(index, not concepts, labels, images, truth)


def with_details(neuron: Neuron, *near: int, inputs: tuple[Input, ...] = ()) -> Neuron:
    """The neuron with all that may be known of one."""
    return replace(
        neuron,
        ranges=(Range("0.1 %", neuron.top_images[:1]), Range("5 %", neuron.top_images[1:])),
        activations=Activations(0.5, 0.25, 0.0, 5.0, (0.0, 2.5, 5.0), (97, 3)),
        similar=tuple(Similar(by, other, 0.5) for by in ("activation", "label") for other in near),
        inputs=inputs,
    )


@pytest.fixture(scope="session")
def thumbnails() -> dict[str, bytes]:
    red, blue = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (30, 40), "blue")
    return {"a.png": thumbnail(red), "b.png": thumbnail(blue)}


@pytest.fixture
def report() -> Report:
    """Two layers: one with known truth, a dead neuron and all details, one plain."""
    inputs = (Input("conv1", 0, 0.5), Input(None, 7, -0.25))
    last = (
        with_details(make_neuron(0, "dog", "hound", similarity=2.0, truth="dog"), 1, 3, inputs=inputs),
        make_neuron(1, "cat", "hot dog", similarity=3.0, truth="fox"),
        make_neuron(2, truth="owl"),
        make_neuron(3, "dog", "wolf", similarity=1.0, truth="dog"),
    )
    facts = (("Network", "torchvision:resnet18"), ("Concepts", "common-20k"))
    layers = (Layer("fc", last), Layer("conv1", (make_neuron(0, "sky"),)))
    rejects = (("x.png", "not an image"),)
    return Report(
        "A small report", facts, layers, rejects, ("A note.",), spec=(("target", "torchvision:resnet18"),), cut=1.5
    )


@pytest.fixture(scope="session")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    return found


@pytest.fixture(scope="module")
def running(browser: str) -> Iterator[Browser]:
    with driven(browser, SWITCHES) as it:
        yield it


@pytest.fixture(scope="module")
def only_tab(running: Browser) -> Iterator[Page]:
    with running.page() as it:
        yield it


@pytest.fixture
def page(only_tab: Page) -> Iterator[Page]:
    """A tab of a usual screen; afterwards, no page has complained.

    Script errors, refused requests and breaches of the content security policy all speak there.
    """
    only_tab.send("Emulation.clearDeviceMetricsOverride")
    only_tab.send("Emulation.setEmulatedMedia", media="", features=[])
    yield only_tab
    assert only_tab.said == []


@pytest.fixture
def write(tmp_path: Path, thumbnails: dict[str, bytes]) -> Write:
    def write_(report: Report) -> Path:
        for name, data in pages(report, thumbnails):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return tmp_path

    return write_
