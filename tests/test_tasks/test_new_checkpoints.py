"""Which weights files of a folder are new."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import SourceError
from tasks.models.errors import CheckpointError
from tasks.new_checkpoints import Checkpoint, mark_dissected, plan_checkpoints
from tasks.published import RUN
from tasks.spec import DissectSpec
from tests.conftest import draw_images

Plan = Callable[..., list[Checkpoint]]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Plans the checkpoints of a folder, by default of one that holds `a.pt` and `b.safetensors`."""
    images = draw_images(tmp_path / "images")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("checkpoints/a.pt", "checkpoints/b.safetensors", "checkpoints/.c.pt", "other/a.pt"):
        (tmp_path / name).write_bytes(b"weights")
    (tmp_path / "concepts.txt").write_text("red\ngreen\n")

    def go(where: str = "checkpoints", **changed: Any) -> list[Checkpoint]:
        given = {"target": "sample", "layers": ("head",), "probe": str(images), "clip": "sample"}
        given |= {"concepts": str(tmp_path / "concepts.txt"), "store": str(tmp_path / "store")}
        given |= {"out": str(tmp_path / "out")}
        return plan_checkpoints(DissectSpec(**(given | changed)), str(tmp_path / where))

    return go


def finish(checkpoints: list[Checkpoint]) -> None:
    for one in checkpoints:
        one.out.write_json(RUN, {})
        mark_dissected(one)


def new(checkpoints: list[Checkpoint]) -> list[str]:
    return [one.out.name for one in checkpoints if not one.is_done]


def test_each_file_has_a_run_of_its_own(plan: Plan, tmp_path: Path) -> None:
    found = plan()
    assert new(found) == ["a", "b"]
    assert [one.spec.checkpoint for one in found] == [
        str(tmp_path / "checkpoints" / name) for name in ("a.pt", "b.safetensors")
    ]
    assert [one.out.url for one in found] == [str(tmp_path / "out" / stem) for stem in ("a", "b")]
    assert {one.spec.target for one in found} == {"sample"}


def test_what_is_done_is_done_until_the_file_changes(plan: Plan, tmp_path: Path) -> None:
    finish(plan())
    assert new(plan()) == [] == new(plan("checkpoints/*.pt"))
    (tmp_path / "checkpoints" / "b.safetensors").write_bytes(b"other weights")
    (tmp_path / "checkpoints" / "d.pth").write_bytes(b"weights")
    assert new(plan()) == ["b", "d"]


def test_a_file_that_changes_while_it_is_dissected_is_new_again(plan: Plan, tmp_path: Path) -> None:
    planned = plan()
    (tmp_path / "checkpoints" / "a.pt").write_bytes(b"of the next epoch")
    finish(planned)
    assert new(plan()) == ["a"]


@pytest.mark.parametrize("what", ["spec", "concepts", "images", "published tables"])
def test_what_else_results_depend_on_is_noticed(what: str, plan: Plan, tmp_path: Path) -> None:
    finish(plan())
    if what == "concepts":
        (tmp_path / "concepts.txt").write_text("red\ngreen\nblue\n")
    if what == "images":
        next((tmp_path / "images" / "red").iterdir()).unlink()
    if what == "published tables":
        (tmp_path / "out" / "b" / RUN).unlink()
    assert new(plan(**({"a": 5.0} if what == "spec" else {}))) == (["b"] if "tables" in what else ["a", "b"])


@pytest.mark.parametrize(
    ("where", "changed", "said"),
    [
        ("nowhere", {}, "There is no folder .*/nowhere of checkpoints"),
        ("images", {}, r"There is no checkpoint in .*/images: none of \.safetensors, \.pt, \.pth"),
        ("checkpoints/*.ckpt", {}, r"There is no checkpoint in .*\*\.ckpt"),
        ("*/*.pt", {}, "/checkpoints/a.pt and .*/other/a.pt would both be published in the folder a of out"),
        ("checkpoints", {"out": None}, "The spec has no out"),
        ("checkpoints", {"checkpoint": "mine.pt"}, "The spec has the checkpoint mine.pt"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_at_once(where: str, changed: dict[str, Any], said: str, plan: Plan) -> None:
    with pytest.raises(CheckpointError, match=said):
        plan(where, **changed)


def test_images_that_are_not_there_are_said_at_once(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There is no folder"):
        plan(probe=str(tmp_path / "nowhere"))


def test_open_clip_reads_files_of_this_machine(plan: Plan) -> None:
    spec = plan()[0].spec.model_copy(update={"target": "open_clip:ViT-B-32", "checkpoint": None})
    with pytest.raises(CheckpointError, match="open_clip reads weights from files of this machine"):
        plan_checkpoints(spec, "s3://bucket/weights")
