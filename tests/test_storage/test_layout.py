"""Every path of a store lies in the store, whatever a layer is called."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.errors import IdentityError
from storage.files import Folder
from storage.layout import FORMAT, Store, place, safe

layer_names = st.text(min_size=1, max_size=30)


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


@given(layer_names, layer_names)
@example(".", "%2E")
@example("a/b", "a%2Fb")
def test_two_layers_never_share_a_folder(one: str, other: str) -> None:
    assert (safe(one) == safe(other)) == (one == other)


@pytest.mark.parametrize("layer", ["layer4.2.conv3", "features.12", "blocks.0.attn_drop", "down-2"])
def test_common_layer_names_stay_as_they_are(layer: str) -> None:
    assert safe(layer) == layer


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
