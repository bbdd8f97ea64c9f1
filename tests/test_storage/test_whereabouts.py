"""A run and its store find each other after either was moved, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.errors import IncompleteError
from storage.files import Folder
from storage.layout import Store
from storage.shards import MANIFEST
from storage.whereabouts import joined, moved_to, moves, names_store, probe_of, references, relative, store_of

PROBE = "0" * 20


def store_at(folder: Path | str, labels: str = "") -> Store:
    """A store with the probe set, and with labels where they have a name."""
    store = Store.at(str(folder))
    store.probe(PROBE).write(MANIFEST, b"{}")
    if labels:
        (store.root / "labels" / labels).write("done.json", b"{}")
    return store


def facts_of(out: Path | str, store: Store) -> dict[str, Any]:
    return {"digests": {"labels": "l"}, **references(Folder.at(str(out)), store, PROBE)}


@pytest.mark.parametrize(
    ("url", "base", "path"),
    [
        ("/a/store", "/a/out", "../store"),
        ("/a/store", "/a/out/before", "../../store"),
        ("/a/store", "/a/store/runs/1", "../.."),
        ("/a/b/../store", "/a/out", "../store"),
        ("/data/store", "/home/out", None),
        ("s3://bucket/p/store", "s3://bucket/p/out", "../store"),
        ("s3://bucket/store", "s3://other/out", None),
        ("s3://bucket/store", "/bucket/out", None),
        ("memory://a/b", "gs://a/c", None),
    ],
)
def test_a_path_leads_from_one_folder_to_another(url: str, base: str, path: str | None) -> None:
    assert relative(url, base) == path
    if path is not None:
        assert relative(joined(Folder(base), path).url, url) == "."


def test_a_whole_path_is_itself_and_none_leads_out_of_a_bucket_s_protocol() -> None:
    assert joined(Folder("/a"), "s3://b/c").url == "s3://b/c" and joined(Folder("s3://b"), "/c").url == "/c"
    assert joined(Folder("s3://b/c"), "../../../../d").url == "s3://d"


def test_a_store_is_found_where_it_was_and_beside_a_run_that_was_moved_with_it(tmp_path: Path) -> None:
    store, out = store_at(tmp_path / "p" / "store"), tmp_path / "p" / "out"
    facts = facts_of(out, store)
    assert store_of(Folder.at(str(out)), facts) == store and names_store(Folder.at(str(out)), facts, store)
    alone = Folder.at(str(tmp_path / "elsewhere" / "out"))
    assert store_of(alone, facts) == store  # the run was moved alone
    (tmp_path / "p").rename(tmp_path / "q")
    moved = Folder.at(str(tmp_path / "q" / "out"))
    assert store_of(moved, facts).root.url == str(tmp_path / "q" / "store")
    assert moves(moved, facts, store_of(moved, facts)) == [(str(tmp_path / "p"), str(tmp_path / "q"))]
    with pytest.raises(IncompleteError, match=r"looked for: .*elsewhere/store.*p/store.*--store URL"):
        store_of(alone, facts)


def test_of_a_copy_and_the_original_the_copy_beside_the_run_is_taken(tmp_path: Path) -> None:
    store, copy = (store_at(tmp_path / name / "store", "l") for name in ("p", "q"))
    facts = facts_of(tmp_path / "p" / "out", store)
    beside = Folder.at(str(tmp_path / "q" / "out"))
    assert store_of(beside, facts) == copy
    assert not names_store(beside, facts, copy) and not names_store(beside, facts, store)


def test_a_store_of_the_same_images_that_never_labelled_is_no_match(tmp_path: Path) -> None:
    store = store_at(tmp_path / "p" / "store", "l")
    store_at(tmp_path / "q" / "store")
    facts = facts_of(tmp_path / "p" / "out", store)
    assert store_of(Folder.at(str(tmp_path / "q" / "out")), facts) == store


def test_a_store_that_is_given_is_the_only_one_looked_at(tmp_path: Path) -> None:
    store, other = store_at(tmp_path / "store"), store_at(tmp_path / "other")
    out = Folder.at(str(tmp_path / "out"))
    facts = facts_of(out.url, store)
    assert store_of(out, facts, other.root.url) == other
    with pytest.raises(IncompleteError, match=rf"--store {tmp_path}/none does not have it: there is no .*manifest"):
        probe_of(out, facts, str(tmp_path / "none"))


@pytest.mark.parametrize("kind", ["whole", "inside"])
def test_a_run_of_an_older_version_is_read(kind: str, tmp_path: Path) -> None:
    store = store_at(tmp_path / "store")
    facts: dict[str, Any] = {"digests": {"labels": "l"}, "probe": store.probe(PROBE).url}
    out = Folder.at(str(tmp_path / "out")) if kind == "whole" else store.run("1" * 20)
    assert store_of(out, facts) == store and names_store(out, facts, store)
    (tmp_path / "store").rename(tmp_path / "moved")
    now = Store.existing(str(tmp_path / "moved"))
    if kind == "inside":  # it lies in its store, wherever that is
        out = now.run("1" * 20)
        assert store_of(out, facts) == now
    else:
        with pytest.raises(IncompleteError):
            store_of(out, facts)
    assert not names_store(out, facts, now)
    said = moved_to(out, {**facts, "similarities": f"{store.root.url}/similarities/x.zarr"}, now)
    assert said["similarities"] == "similarities/x.zarr" and names_store(out, said, now)


def test_a_link_to_a_store_is_the_store(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    facts = facts_of(tmp_path / "out", Store.existing(str(tmp_path / "link")))
    assert names_store(Folder.at(str(tmp_path / "out")), facts, store)


def test_an_object_store_that_was_copied_is_found_beside_its_run() -> None:
    store, copy = store_at("memory://a/whereabouts/p/store"), store_at("memory://a/whereabouts/q/store")
    facts = facts_of("memory://a/whereabouts/p/out", store)
    assert store_of(Folder.at("memory://a/whereabouts/q/out"), facts) == copy
    assert store_of(Folder.at("/anywhere/out"), facts | {"store_from_here": None}) == store
