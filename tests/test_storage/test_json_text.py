"""JSON that tells whether it is as it was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.json_text import CHECKSUM, as_json, checked, with_checksum

FACTS = {"größe": 1.5, "files": {"a/b": {"num_bytes": 3}}, "none": None, "text": "a\n \u2028", "no": float("inf")}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")).filter(lambda name: name != CHECKSUM), values, min_size=1)
)
def test_facts_come_back_as_they_were(facts: dict[str, object]) -> None:
    data = with_checksum(facts)
    assert checked(data) == facts
    assert list(json.loads(data)) == [*facts, CHECKSUM]


def test_a_flip_of_any_bit_is_found() -> None:
    data = with_checksum(FACTS)
    for at in range(len(data)):
        for bit in range(8):
            with pytest.raises(ValueError):
                checked(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])


def test_a_cut_at_any_byte_is_found() -> None:
    data = with_checksum(FACTS)
    for length in range(len(data)):
        with pytest.raises(ValueError):
            checked(data[:length])


def test_what_older_versions_wrote_is_read() -> None:
    assert checked(as_json(FACTS)) == FACTS
    assert checked(b"{}") == {} and checked(b"[1]") == [1]
