"""Images at URLs: fetched several at a time, in order; those that cannot be had are listed."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from storage.shards import read_images
from storage.sources.reading import fetch
from tasks.packing import FETCHED_AT_A_TIME, MAX_AHEAD, Entries
from tasks.shard import finish_probe, make_shards, plan_shards
from tests.test_tasks.conftest import png, shard
from tests.web import Web


def listed_at(web: Web, folder: Path, names: list[str]) -> Path:
    """A list of images at a server, each of its own colour; a name may tell how the server fails."""
    web.files |= {name.rpartition("/")[2]: png(number) for number, name in enumerate(names)}
    (folder / "list.csv").write_text("\n".join(["path", *(f"{web.url}/{name}" for name in names)]) + "\n")
    return folder / "list.csv"


def test_urls_that_fail_for_a_while_are_there_and_others_are_listed(spec_of: Any, web: Web, tmp_path: Path) -> None:
    trouble = {"503/2/1.png": True, "404/9/2.png": False, "hang/9/4.png": False, "cut/1/5.png": True}
    trouble |= {"500/3/7.png": False, "hang/1/8.png": True}
    names = ["0.png", "503/2/1.png", "404/9/2.png", "3.png", "hang/9/4.png", "cut/1/5.png", "6.png"]
    names += ["500/3/7.png", "hang/1/8.png", "9.png"]
    probe = shard(spec_of(listed_at(web, tmp_path, names)))
    good = [name for name in names if trouble.get(name, True)]
    assert probe.index()["path"].tolist() == [f"{web.url}/{name}" for name in good]
    assert [data for _, data in read_images(probe.folder, probe.index())] == [png(names.index(n)) for n in good]
    assert [reason.partition(": ")[::2] for reason in probe.rejects()["reason"]] == [
        ("cannot be fetched", "HTTP Error 404: Not Found"),
        ("cannot be fetched in 3 tries", "timed out"),
        ("cannot be fetched in 3 tries", "HTTP Error 500: Internal Server Error"),
    ]


def test_a_shard_all_of_whose_urls_fail_is_survived(spec_of: Any, web: Web, tmp_path: Path) -> None:
    names = [f"404/9/{number}.png" if number < 4 else f"{number}.png" for number in range(8)]
    probe = shard(spec_of(listed_at(web, tmp_path, names), images_per_shard=4))
    assert (probe.num_images, probe.num_rejects, probe.num_shards) == (4, 4, 2)


def test_several_urls_are_asked_for_at_once_and_few_images_are_held(
    spec_of: Any, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.png" for number in range(40)]
    plan = plan_shards(spec_of(listed_at(web, tmp_path, names)))
    together = threading.Barrier(FETCHED_AT_A_TIME)  # breaks, and so fails, where fewer are at it at once
    lock = threading.Lock()
    fetched = packed = most = 0

    def fetch_together(url: str) -> bytes:
        nonlocal fetched, most
        if int(url.rpartition("/")[2].removesuffix(".png")) < FETCHED_AT_A_TIME:
            together.wait(10)
        data = fetch(url)
        with lock:
            fetched += 1
            most = max(most, fetched - packed)
        return data

    def admit_counted(entries: Entries, *image: Any) -> Any:
        nonlocal packed
        if not packed:
            time.sleep(0.3)  # for all that may be read ahead
        member = admit(entries, *image)
        with lock:
            packed += 1
        return member

    admit = Entries.admit
    monkeypatch.setattr("storage.sources.image_list.fetch", fetch_together)
    monkeypatch.setattr(Entries, "admit", admit_counted)
    for work in plan.work:
        make_shards.fn(plan.packing, work)
    assert finish_probe.fn(plan).index()["path"].tolist() == [f"{web.url}/{name}" for name in names]
    assert most <= MAX_AHEAD
