"""A whole run in an object store: images, lists, weights, store and results at `s3://`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from flows.__main__ import cli
from storage.files import Folder
from tests.object_store import Fault, ObjectStore
from tests.test_flows.test_dissect import NOTHING, TABLES, Run, tables
from tests.tiny_models import colours

FILES = ("image_embeddings.npy", "image_embeddings.keys.txt", "concepts.txt", "concept_embeddings.npy")


def copied(base: dict[str, Any], folder: Folder) -> dict[str, Any]:
    """The finished run's parameters, with all that it read in an object store, and its results to go there."""
    local = Path(base["probe"])
    for path in local.rglob("*.*"):
        (folder / "images").write(str(path.relative_to(local)), path.read_bytes())
    for name in FILES:
        folder.write(name, (local.parent / name).read_bytes())
    with folder.writing("weights.pt") as file:
        torch.save(colours()[0].state_dict(), file)
    lists = {"concepts": "concepts.txt", "truth": "concepts.txt", "concept_embeddings": "concept_embeddings.npy"}
    read = {"probe": "images", "checkpoint": "weights.pt", "image_embeddings": "image_embeddings.npy"} | lists
    return base | {what: folder.path(name) for what, name in (read | {"store": "store", "out": "out"}).items()}


@pytest.mark.usefixtures("one_flow_run")
def test_a_run_in_an_object_store_that_fails_now_and_then_gives_the_same_tables(
    run: Run, base: dict[str, Any], s3: ObjectStore
) -> None:
    given = copied(base, s3.folder())
    s3.fails(
        Fault("503", "PUT", "/shard-000000.tar"),
        Fault("cut", "GET", "/images/red/"),
        Fault("500", "GET", "/store/probes/"),
        Fault("lost", "PUT", "/head/c/"),
        Fault("short", "GET", "/summaries.zarr"),
        Fault("500", "PUT", "/out/run.json"),
    )
    done = run(**given)
    assert done["shard"] == 48 and done["embed and record"] == 48 and done["publish"] == 1
    out = Folder.at(given["out"])
    assert {name: out.read(name) for name in TABLES} == tables(Path(base["out"]))
    assert (Folder.at(given["store"]) / "leases").names() == []
    shows_and_reports(out)

    s3.fails()
    assert run(**given) == NOTHING
    assert not [request for request in s3.asked() if not request.startswith(("GET ", "HEAD "))]


def shows_and_reports(out: Folder) -> None:
    command: Callable[..., Any] = CliRunner().invoke
    shown = command(cli, ["show", out.url, "--layer", "head"])
    assert shown.exit_code == 0 and "green" in shown.output
    report = out.read("report/index.html")
    out.remove_file("report/index.html")
    assert command(cli, ["report", out.url]).output == f"Report: {out.path('report/index.html')}\n"
    assert out.read("report/index.html") == report
    assert json.loads(out.read("run.json"))["accuracy"]["top1"] == 1.0
