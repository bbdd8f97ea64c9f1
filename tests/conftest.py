"""What every test may use: a Prefect server of the session's own, and tiny real data."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

# Before anything imports Prefect: its database is the session's own, never the user's.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="clip-dissect-prefect-")
os.environ.pop("PREFECT_API_URL", None)

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from tests.object_store import ObjectStore, object_store
from tests.web import Web, serving

REPO = Path(__file__).resolve().parent.parent
REAL = REPO.parent / "shared" / "real"

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"real networks and embeddings are not at {REAL}")

#: Names and colours of the tiny probe set: an image's colour is its class.
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "grey": (128, 128, 128)}
IMAGES_PER_COLOUR = 12
#: Modules that take longest, which come first: where several work side by side, none is left alone with one.
LONGEST = [
    *("test_readme.py", "test_deployed.py", "test_deployments.py", "test_dissect.py", "test_engines.py"),
    *("test_kills.py", "test_server.py", "test_real.py", "test_house.py"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts tests by module, those of `LONGEST` first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect home whose database has its tables, which take long to make, and nothing in them."""
    from flows.engine.server import prefect_server

    base = tmp_path_factory.getbasetemp()
    # One for all processes that test side by side (xdist).
    empty = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prefect"
    with FileLock(f"{empty}.lock"):
        if not empty.exists():
            home, making = Path(os.environ["PREFECT_HOME"]), empty.with_suffix(".partial")
            making.mkdir()
            with (
                prefect_server(),
                closing(sqlite3.connect(home / "prefect.db")) as made,
                closing(sqlite3.connect(making / "prefect.db")) as copied,
            ):
                made.backup(copied)
            shutil.copy(home / "memo_store.toml", making)  # says that the kinds of blocks are in it
            making.rename(empty)
    return empty


@pytest.fixture(scope="session")
def prefect_api(empty_home: Path) -> Iterator[str]:
    """The URL of a Prefect server that flows called in this process use."""
    from flows.engine.server import prefect_server

    shutil.copytree(empty_home, os.environ["PREFECT_HOME"], dirs_exist_ok=True)
    with prefect_server() as url:
        yield url


@pytest.fixture
def prefect_home(empty_home: Path, tmp_path: Path) -> Path:
    """A Prefect home for a process of the test's own."""
    return shutil.copytree(empty_home, tmp_path / "prefect")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server on this machine; nobody waits long for it."""
    monkeypatch.setattr("storage.sources.reading.PAUSES", (0.0, 0.0))
    monkeypatch.setattr("storage.sources.reading.TIMEOUT", 0.4)
    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def object_store_server() -> Iterator[ObjectStore]:
    """The session's own object store."""
    with object_store() as running:
        yield running


@pytest.fixture
def s3(object_store_server: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ObjectStore:
    """An object store where `s3://` is, for processes that a test starts too; nobody is patient with it for long."""
    for name, value in object_store_server.settings(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("storage.remote.PATIENCE", 5.0)
    monkeypatch.setattr("storage.remote.FIRST_PAUSE", 0.01)
    object_store_server.fails()
    return object_store_server


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 48 small images, a sub-folder per colour, PNG and JPEG, each a little different."""
    return draw_images(tmp_path / "images")


def draw_images(folder: Path, per_colour: int = IMAGES_PER_COLOUR) -> Path:
    """Noisy plain images, deterministic."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_colour):
            pixels = np.clip(np.array(colour) + rng.normal(0, 25, (20, 24, 3)), 0, 255).astype(np.uint8)
            ending = "png" if i % 2 else "jpg"
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.{ending}")
    return folder


@pytest.fixture
def embeddings(images: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """`(image embeddings, concepts, concept embeddings)` files for the tiny probe set: colours as vectors."""
    return write_embeddings(images, tmp_path)


def write_embeddings(images: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Embeddings of the images of `draw_images` and of the names of their colours."""
    paths = sorted(str(path.relative_to(images)) for path in images.rglob("*.*"))
    vectors = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "grey": (1, 1, 1)}
    rng = np.random.default_rng(1)
    rows = np.array([vectors[path.split("/")[0]] for path in paths]) + rng.normal(0, 0.05, (len(paths), 3))
    image_file, concept_file = folder / "image_embeddings.npy", folder / "concept_embeddings.npy"
    np.save(image_file, rows.astype(np.float32))
    (folder / "image_embeddings.keys.txt").write_text("\n".join(paths) + "\n")
    names = folder / "concepts.txt"
    names.write_text("\n".join(vectors) + "\n")
    np.save(concept_file, np.array(list(vectors.values()), dtype=np.float32))
    return image_file, names, concept_file


def take_ctrl_c() -> None:
    """What a process that is to be interrupted does first: tests that run in the background ignore Ctrl-C, and with
    them all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def single_threaded() -> Iterator[None]:
    """For tiny arrays and networks: threads would wait for each other longer than they work."""
    from tasks.dissection.threads import alone

    with alone():
        yield
