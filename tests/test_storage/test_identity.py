"""Identity is content: order does not matter, everything else does."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import IdentityError
from storage.identity import canonical, check, digest_of

names = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
identities = st.dictionaries(names, values, max_size=5)


@given(identities, st.randoms())
def test_the_order_of_names_does_not_matter(identity: dict[str, Any], random: Any) -> None:
    shuffled = list(identity.items())
    random.shuffle(shuffled)
    assert digest_of(dict(shuffled)) == digest_of(identity)
    check(dict(shuffled), identity, "it")


@given(identities, names, values)
def test_one_changed_value_gives_another_digest_and_is_named(identity: dict[str, Any], name: str, value: Any) -> None:
    other = {**identity, name: value}
    if canonical(other) == canonical(identity):
        return
    assert digest_of(other) != digest_of(identity)
    with pytest.raises(IdentityError) as caught:
        check(identity, other, "The group")
    assert f"{name}: stored" in str(caught.value)


def test_the_error_names_only_what_differs_with_both_values() -> None:
    with pytest.raises(IdentityError, match="--store") as caught:
        check({"probe": "ab", "summary": "mean"}, {"probe": "ab", "summary": "max"}, "The group x")
    assert "The group x" in str(caught.value)
    assert "summary: stored 'mean', wanted 'max'" in str(caught.value)
    assert "probe" not in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "wanted"), [({"a": None}, {}), ({"a": 1}, {"a": 1.0}), ({"a": True}, {"a": 1}), ({}, {"a": None})]
)
def test_a_difference_that_python_calls_equal_is_named_too(stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    with pytest.raises(IdentityError, match="a: stored"):
        check(stored, wanted, "it")


def test_a_tuple_is_the_list_it_becomes_in_a_file() -> None:
    check({"layers": ["a", "b"]}, {"layers": ("a", "b")}, "it")


def test_nan_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"a": math.nan})


def test_a_digest_stays_the_same_over_versions() -> None:
    assert digest_of({"b": [1, "ü"], "a": None}) == "6bafd57c7869b3aca54e"
