"""How labels are judged where the truth is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dissection.metrics import accuracy
from tests.test_dissection.strategies import QUICK

WORDS = ["cat", "dog", "fire truck"]


def test_accuracy_is_the_share_of_neurons_named_right() -> None:
    labels = [["cat", "dog"], ["dog", "cat"], ["fire truck", "dog"], ["dog", "fire truck"]]
    truth = ["cat", "cat", "cat", "dog"]
    assert accuracy(labels, truth) == 0.5
    assert accuracy(labels, truth, top=2) == 0.75


def test_letter_case_does_not_count_and_part_of_a_name_is_not_the_name() -> None:
    assert accuracy([["Fire Truck"], ["fire truck"], ["truck"]], ["FIRE truck"] * 3) == pytest.approx(2 / 3)


@given(st.lists(st.tuples(st.permutations(WORDS), st.sampled_from(WORDS)), min_size=1, max_size=6))
@QUICK
def test_accuracy_grows_with_the_labels_looked_at_up_to_1(neurons: list[tuple[list[str], str]]) -> None:
    labels, truth = [words for words, _ in neurons], [true for _, true in neurons]
    by_top = [accuracy(labels, truth, top=top) for top in (1, 2, 3, 4)]
    assert by_top == sorted(by_top)
    assert by_top[2:] == [1.0, 1.0]


def test_numbers_of_neurons_that_differ_are_refused_by_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"2 neurons have labels and 1 have a true concept"):
        accuracy([["cat"], ["dog"]], ["cat"])


def test_no_neuron_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no neuron"):
        accuracy([], [])
