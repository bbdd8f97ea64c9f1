"""Folders on a disk and in memory: what holds for one holds for the other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from storage.files import Folder


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """An empty folder that is not made yet, of each file system."""
    if request.param == "local":
        yield Folder.at(str(tmp_path / "folder"))
        return
    name = f"/{uuid.uuid4().hex}"
    yield Folder.at(f"memory:/{name}")
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


@pytest.fixture
def disk(tmp_path: Path) -> Folder:
    """An empty folder on the disk."""
    return Folder.at(str(tmp_path / "folder"))
