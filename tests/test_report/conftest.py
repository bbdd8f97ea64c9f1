"""Rows and a browser for the tests of the report."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from tasks.report.page import render
from tasks.report.rows import Label, Layer, Neuron, Report, TopImage
from tasks.report.thumbnails import thumbnail

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

Open = Callable[..., str]


def make_neuron(index: int, *concepts: str, similarity: float = 1.0, truth: str | None = None) -> Neuron:
    """A neuron whose labels fall by 0.25 each; none given means dead."""
    labels = tuple(Label(name, similarity - rank / 4, -20.0, -21.0) for rank, name in enumerate(concepts))
    images = tuple(TopImage(key, 5.0 - rank) for rank, key in enumerate(("a.png", "b.png")) if concepts)
    return Neuron(index, not concepts, labels, images, truth)


@pytest.fixture(scope="session")
def thumbnails() -> dict[str, bytes]:
    red, blue = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (30, 40), "blue")
    return {"a.png": thumbnail(red), "b.png": thumbnail(blue)}


@pytest.fixture
def report() -> Report:
    """Two layers: one with known truth and a dead neuron, one plain."""
    last = (
        make_neuron(0, "dog", "hound", similarity=2.0, truth="dog"),
        make_neuron(1, "cat", "hot dog", similarity=3.0, truth="fox"),
        make_neuron(2, truth="owl"),
        make_neuron(3, "dog", "wolf", similarity=1.0, truth="dog"),
    )
    facts = (("Network", "torchvision:resnet18"), ("Concepts", "common-20k"))
    return Report("A small report", facts, (Layer("fc", last), Layer("conv1", (make_neuron(0, "sky"),))))


@pytest.fixture(scope="session")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    return found


@pytest.fixture
def open_page(browser: str, tmp_path: Path, thumbnails: dict[str, bytes]) -> Open:
    """Writes a report to disk, opens it with `#state`, and gives the page as the browser then has it."""

    def open_(report: Report, state: str = "") -> str:
        path = tmp_path / "report.html"
        path.write_text(render(report, thumbnails), encoding="utf-8")
        # The browser may still be writing its profile when it is gone; what stays is the system's to clean.
        with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            run = subprocess.run(
                [browser, *SWITCHES, f"--user-data-dir={profile}", "--dump-dom", f"{path.as_uri()}{state}"],
                capture_output=True,
                encoding="utf-8",
                timeout=60,
                check=True,
            )
        # Script errors, refused requests and breaches of the content security policy all speak here.
        assert not re.findall(r".*CONSOLE.*", run.stderr)
        return run.stdout

    return open_
