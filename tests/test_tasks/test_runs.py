"""The table of a store's runs, in terminals of any width."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from storage.layout import Store
from storage.runs import Run, record
from tasks.runs import common_folder, fitted, last_part, runs_table, width_of

FOLDER = "/data/projects/interpretability/2026"


@pytest.fixture
def store(tmp_path: Any) -> Store:
    """A store with three runs on record, whose folders are long, and in whose parameters much differs."""
    store = Store.at(str(tmp_path / "store"))
    for number, name in enumerate(("resnet50-layer4", "resnet50-layer3", "vit-b-16")):
        spec = {
            "target": "torchvision:resnet50" if number < 2 else "torchvision:vit_b_16",
            "probe": ["/data/images/imagenet/validation-set-of-2012"],
            "concepts": "/data/lists/common-20k-without-names.txt",
            "layers": [f"layer{number}"],
            "top_k": 100 * number,
            "prompt": "a photo of a {}" if number else "{}",
        }
        counts = {"images": 50_000, "neurons": 2_048}
        when = f"2026-11-0{number + 1}T10:11:12+00:00"
        record(store, Run(f"{FOLDER}/{name}", "d", spec, "p", {}, [], ["layer4"], False, counts, when))
    return store


def shown(store: Store, width: int | None) -> str:
    written = io.StringIO()
    Console(file=written, width=width or 1_000, soft_wrap=True).print(runs_table(store, width))
    return written.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_its_terminal_and_names_every_folder_whole(store: Store, width: int) -> None:
    text = shown(store, width)
    assert max(len(line) for line in text.splitlines() if line.startswith(" ")) <= width
    for name in ("resnet50-layer4", "resnet50-layer3", "vit-b-16"):
        assert any(f" {name} " in line for line in text.splitlines())
    assert f"Folders (out) are in {FOLDER}/" in text
    assert "No room for:" in text and "less -S" in " ".join(text.split())


def test_a_pipe_gets_all_of_it(store: Store) -> None:
    text = shown(store, None)
    assert f"{FOLDER}/vit-b-16" in text and "a photo of a {}" in text and "2026-11-01 10:11:12" in text
    assert "No room" not in text and text == shown(store, 1_000)


def test_what_differs_is_left_out_before_what_every_run_has() -> None:
    columns = {"when (UTC)": ["2026-11-01 10:11:12"], "out": ["a/b"], "state": ["published"]}
    columns |= {"target": ["sample"], "probe": ["images"], "concepts": ["words"]}
    columns |= {"top_k": ["100"], "prompt": ["x" * 40]}
    narrow, notes = fitted(columns, ["prompt", "top_k", "concepts"], width_of(columns) - 10)
    assert set(columns) - set(narrow) == {"prompt"}
    assert notes == ["Folders (out) are in a/", "No room for: prompt. To see all: clip-dissect runs STORE | less -S"]
    assert fitted(columns, ["prompt"], width_of(columns)) == (columns, [])


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["/a/b/c", "/a/b/d"], "/a/b/"),
        (["/a/b", "/c/d"], ""),
        (["s3://bucket/x/a", "s3://bucket/y/b"], "s3://bucket/"),
        (["runs/a", "/elsewhere/b"], ""),
        (["a", "a/b"], ""),
        (["/a/bc", "/a/bd"], "/a/"),
    ],
)
def test_folders_have_their_common_one(paths: list[str], folder: str) -> None:
    assert common_folder(paths) == folder


def test_the_last_part_of_a_path_is_marked_as_such() -> None:
    assert [last_part(path) for path in ("/a/b/c", "c", "torchvision:CIFAR10/test", "/c")] == [
        "…/c",
        "c",
        "…/test",
        "/c",
    ]
