"""A tiny run, and what it did."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.files import Folder
from storage.layout import Store
from storage.runs import RUN, record, recorded
from tasks.spec import DissectSpec
from tests.conftest import draw_images, write_embeddings


class Counting:
    """An observer that counts what each stage did."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.notes: list[str] = []

    def started(self, stage: str, total: int, done: int, unit: str) -> None:
        self.done[stage] = 0

    def advanced(self, stage: str, amount: int) -> None:
        self.done[stage] += amount

    def finished(self, stage: str, seconds: float) -> None:
        pass

    def noted(self, text: str) -> None:
        self.notes.append(text)


def parameters(folder: Path, images: Path, embeddings: tuple[Path, Path, Path]) -> dict[str, Any]:
    """Parameters of a run on the tiny images, into `folder`."""
    image_file, concepts, concept_file = embeddings
    return {
        "target": "tests.tiny_models:colours",
        "layers": ("conv", "head"),
        "probe": str(images),
        "concepts": str(concepts),
        "image_embeddings": str(image_file),
        "concept_embeddings": str(concept_file),
        "truth": str(concepts),
        "store": str(folder / "store"),
        "out": str(folder / "out"),
        "top_k": 8,
    }


@pytest.fixture
def tiny(images: Path, embeddings: tuple[Path, Path, Path], tmp_path: Path) -> dict[str, Any]:
    """Parameters of a run that has not begun, on images and embeddings of its own."""
    return parameters(tmp_path, images, embeddings)


@pytest.fixture(scope="session")
def _base(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> dict[str, Any]:
    from flows.dissect import dissect

    folder = tmp_path_factory.mktemp("base")
    images = draw_images(folder / "images")
    finished = parameters(folder, images, write_embeddings(images, folder))
    dissect(DissectSpec(**finished))
    return finished


@pytest.fixture
def base(_base: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters of one finished run, which no test changes: others would find it changed, in some orders only."""
    before = _files(_base)
    yield _base
    assert _files(_base) == before


def _files(finished: dict[str, Any]) -> dict[Path, int]:
    """Files of a run, and when each was written."""
    paths = (path for name in ("store", "out") for path in Path(finished[name]).rglob("*"))
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


@pytest.fixture
def finished(base: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Parameters of a finished run whose store and output are this test's own."""
    own = {name: str(tmp_path / name) for name in ("store", "out")}
    for name, folder in own.items():
        shutil.copytree(base[name], folder)
    store = Store.existing(own["store"])
    [one] = recorded(store)
    record(store, replace(one, url=own["out"], spec=one.spec | own))
    out = Folder(own["out"])
    said = out.read_json(RUN)
    out.write_json(RUN, said | {"store": own["store"], "spec": said["spec"] | own})
    return base | own


@pytest.fixture
def run(prefect_api: str) -> Callable[..., dict[str, int]]:
    """Runs a spec through the flow; gives how many units each stage did."""
    from flows.dissect import dissect
    from flows.engine.progress import observed_by

    def go(**given: Any) -> dict[str, int]:
        counting = Counting()
        with observed_by(counting):
            dissect(DissectSpec(**given))
        return counting.done

    return go


@pytest.fixture
def one_flow_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of a run are plain functions of its one flow, with the same tasks, and leave no artifacts.

    Half of a tiny run's time is calls to the server that put sub-flows and artifacts on record. Tests of what a run
    works out, refuses and stores need none of them.
    """
    from flows.dissect import detail_neurons, label_neurons, observe_probe, shard_probe

    for stage in (shard_probe, observe_probe, label_neurons, detail_neurons):
        monkeypatch.setattr(stage, "with_options", lambda task_runner, stage=stage: stage.fn)
    for artifact in (
        "flows.observe_probe.create_table_artifact",
        "flows.label_neurons.create_table_artifact",
        "flows.engine.progress.create_progress_artifact",
    ):
        monkeypatch.setattr(artifact, lambda *_, **__: None)
