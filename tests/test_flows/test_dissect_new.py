"""Checkpoints that appear in a folder: each is dissected once, and a broken one fails alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.models import targets
from tasks.models.errors import CheckpointError
from tasks.spec import DissectSpec
from tests.test_flows.conftest import Counting
from tests.tiny_models import ColourNet

Dissect = Callable[..., dict[str, int]]
#: What one checkpoint more does in a store that has the images and their embeddings.
ONE_MORE = {"embed and record": 48, "label": 8, "details": 8, "publish": 1}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder of two checkpoints of the colour network: as it is, and with two of its neurons exchanged."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(ColourNet().state_dict(), folder / "first.pt")
    exchange(folder / "second.safetensors", 0, 1)
    (folder / "notes.txt").write_text("not weights")
    (folder / ".third.pt.part").write_bytes(b"half of it")
    return folder


def exchange(file: Path, one: int, other: int) -> None:
    """A checkpoint of the colour network whose neurons `one` and `other` of the head have changed places."""
    weights = ColourNet().state_dict()
    weights["head.weight"][[one, other]] = weights["head.weight"][[other, one]]
    save_file(weights, file)


@pytest.fixture
def dissect_all(prefect_api: str, finished: dict[str, Any], checkpoints: Path) -> Dissect:
    """Runs the flow on the checkpoints; gives how many units each stage did, of all sub-flow runs together."""
    from flows.dissect_new import dissect_new
    from flows.engine.progress import observed_by

    class Summing(Counting):
        def started(self, stage: str, total: int, done: int, unit: str) -> None:
            self.done.setdefault(stage, 0)

    def go(where: str | None = None, **changed: Any) -> dict[str, int]:
        summing = Summing()
        with observed_by(summing):
            dissect_new(DissectSpec(**(finished | {"truth": None} | changed)), where or str(checkpoints))
        return {stage: amount for stage, amount in summing.done.items() if amount}

    return go


def head_of(finished: dict[str, Any], stem: str) -> list[str]:
    labels = pd.read_parquet(Path(finished["out"]) / stem / "labels.parquet")
    return labels[(labels["layer"] == "head") & (labels["rank"] == 1)]["concept"].tolist()


def table(prefect_api: str) -> dict[str, str]:
    """What the last run's artifact says of each checkpoint."""
    found = httpx.get(f"{prefect_api}/artifacts/checkpoints/latest", timeout=30).json()
    return {Path(row["checkpoint"]).name: row["what"] for row in json.loads(found["data"])}


def test_all_are_dissected_then_only_what_is_new(
    dissect_all: Dissect,
    finished: dict[str, Any],
    checkpoints: Path,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = dissect_all()
    # The first has the weights that `finished` was made with: the store knows them.
    assert done["embed and record"] == 48 and done["label"] == 8 and done["publish"] == 2
    assert head_of(finished, "first") == ["red", "green", "blue", "grey"]
    assert head_of(finished, "second") == ["green", "red", "blue", "grey"]
    assert table(prefect_api) == {"first.pt": "dissected", "second.safetensors": "dissected"}
    facts = json.loads((Path(finished["out"]) / "second" / "run.json").read_text())
    assert facts["spec"]["checkpoint"] == str(checkpoints / "second.safetensors")

    def loaded(*_: Any) -> None:
        raise AssertionError("a network is loaded")

    with monkeypatch.context() as patched:
        patched.setattr(targets, "read_checkpoint", loaded)
        assert dissect_all() == {}
    assert set(table(prefect_api).values()) == {"done before"}

    exchange(checkpoints / "third.safetensors", 1, 2)
    assert dissect_all().items() >= ONE_MORE.items()
    assert head_of(finished, "third") == ["red", "blue", "green", "grey"]

    exchange(checkpoints / "third.safetensors", 0, 2)  # the network that this process has loaded last
    assert dissect_all().items() >= ONE_MORE.items()
    assert head_of(finished, "third") == ["blue", "green", "red", "grey"]
    assert list(table(prefect_api).values()) == ["done before", "done before", "dissected"]


def test_a_broken_one_fails_alone_and_is_tried_again(
    dissect_all: Dissect, finished: dict[str, Any], checkpoints: Path, prefect_api: str
) -> None:
    broken = checkpoints / "broken.pt"
    broken.write_bytes((checkpoints / "first.pt").read_bytes()[:500])
    for others in ("dissected", "done before"):
        with pytest.raises(CheckpointError, match=r"1 of 3 checkpoints .*\n.*broken\.pt: CheckpointError: .*weights"):
            dissect_all()
        assert table(prefect_api) == {"broken.pt": "failed", "first.pt": others, "second.safetensors": others}
    torch.save(load_file(checkpoints / "second.safetensors"), broken)
    assert dissect_all() == {"publish": 1}
    assert head_of(finished, "broken") == head_of(finished, "second")


def test_checkpoints_may_lie_in_an_object_store(
    dissect_all: Dissect, finished: dict[str, Any], checkpoints: Path
) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(f"{checkpoints}/", "/weights/run 1/", recursive=True)
    try:
        assert dissect_all("memory://weights/*/second*")["publish"] == 1
        assert dissect_all("memory://weights/run 1") == {"publish": 1}
    finally:
        memory.rm("/weights", recursive=True)
    assert head_of(finished, "second") == ["green", "red", "blue", "grey"]
