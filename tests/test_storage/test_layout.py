"""Every path of a store lies in the store, whatever a layer is called."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.errors import ForeignError, IdentityError
from storage.files import Folder
from storage.layout import FORMAT, Place, Store, place, safe

#: Letters that file systems, Zarr and URLs give a meaning, and any others.
layer_names = st.text(st.sampled_from("ab/\\.%2F-~_ ?#:*[]é\n") | st.characters(), min_size=1, max_size=300)


@given(layer_names)
@example("..")
@example(".")
@example("../../etc")
@example("/etc/passwd")
@example("a\\b:c\x00d\n")
@example("layer*.[0]?")
def test_a_layers_folder_is_right_below_its_own_place(layer: str) -> None:
    store = Store(Folder("/store"))
    for folder, expected in (
        (store.labels("d", layer), "/store/labels/d"),
        (store.activations_done("d", layer).folder, "/store/activations/d.done"),
    ):
        assert posixpath.dirname(posixpath.normpath(folder.url)) == expected
        assert folder.name.isascii()
        assert folder.name.isprintable()
        assert len(folder.name) <= 255
        assert folder.name != "zarr.json"


@given(layer_names, layer_names)
@example(".", "%2E")
@example("a/b", "a%2Fb")
@example("zarr.json", "zarr%2Ejson")
@example("é" * 200, "é" * 201)
@example("/" * 83 + "abcdef", "/" * 83 + "abcdefg")
@example("%-", "-")
def test_two_layers_never_share_a_folder(one: str, other: str) -> None:
    assert (safe(one) == safe(other)) == (one == other)


@pytest.mark.parametrize("layer", ["layer4.2.conv3", "features.12", "blocks.0.attn_drop", "down-2"])
def test_common_layer_names_stay_as_they_are(layer: str) -> None:
    assert safe(layer) == layer


@given(layer_names)
def test_a_short_name_is_read_back_from_its_folder(layer: str) -> None:
    if "%-" not in safe(layer):  # it was not cut
        assert unquote(safe(layer)) == layer


@given(layer_names)
@example("block%2F0")
@example("~" * 300)
@example("c")
@example("c/0/0")
def test_the_files_of_a_layer_are_known_as_the_layers(layer: str) -> None:
    digest, part = "0" * 20, safe(layer)
    for kind, path in (
        ("activations", f"activations/{digest}.zarr/{part}/zarr.json"),
        ("activations", f"activations/{digest}.zarr/{part}/c/0/0"),
        ("activations", f"activations/{digest}.summaries.zarr/{part}/statistics/c/0/0/0"),
        ("similarities", f"similarities/{digest}.zarr/{part}/c/0/0"),
        ("labels", f"labels/{digest}/{part}/done.json"),
    ):
        assert place(path) == Place(kind, digest, part), path


def test_an_array_of_an_older_version_is_known_as_its_layers() -> None:
    for kind in ("activations", "similarities"):
        path = f"{kind}/{'0' * 20}.zarr/conv/1 b/c/0/0"
        assert place(path) == Place(kind, "0" * 20, safe("conv/1 b"))


class TestLetterCase:
    """Layers `Conv` and `conv` on a file system that takes their folders for one."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Store.at(str(tmp_path / "store"))

    def test_a_file_system_that_tells_them_apart_has_both(self, store: Store) -> None:
        store.refuse_twins("d", ["Conv", "conv"])

    @pytest.mark.parametrize("there", [[], ["Conv"]])
    def test_a_second_layer_is_refused_by_name(self, there: list[str], store: Store) -> None:
        (Path(store.root.url) / "STORE.JSON").touch()  # as such a file system would find it
        for layer in there:
            store.activations_done("d", layer).mark("0", {})
        store.refuse_twins("d", ["Conv", "other"])
        with pytest.raises(ForeignError, match=r"'Conv' and 'conv' differ by upper and lower case.*--store for each"):
            store.refuse_twins("d", [*(() if there else ("Conv",)), "conv"])


def test_a_store_is_made_once_and_opened_again(folder: Folder) -> None:
    Store.at(folder.url)
    before = folder.read("store.json")
    assert Store.at(folder.url).root.url == folder.url
    assert folder.read("store.json") == before


def test_a_store_of_another_format_is_refused_with_both_numbers(folder: Folder) -> None:
    folder.write_json("store.json", {"format": FORMAT + 41})
    with pytest.raises(IdentityError, match=f"has format {FORMAT + 41}.*format {FORMAT}.*--store"):
        Store.at(folder.url)


def test_leases_are_ours_wherever_they_are_held() -> None:
    digest = "0" * 20
    for held in (f"leases/{digest}-index", f"runs/{digest}/run.json"):
        for path in (f"{held}.lock", f"{held}.lease/0000000001"):
            found = place(path)
            assert found and found.kind == "lease", path
