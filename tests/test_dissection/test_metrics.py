"""How labels are judged where the truth is known."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dissection.metrics import accuracy, distinct, entropy, mean, median, ranks_in, right_ranks, roc_auc
from tests.test_dissection.strategies import QUICK

WORDS = ["cat", "dog", "fire truck"]
#: Few different values, so that there are ties.
SCORES = st.sampled_from([-1.5, 0.0, 0.25, 2.0])


def test_accuracy_is_the_share_of_neurons_named_right() -> None:
    labels = [["cat", "dog"], ["dog", "cat"], ["fire truck", "dog"], ["dog", "fire truck"]]
    ranks = right_ranks(labels, [["cat"], ["cat"], ["cat"], ["dog"]])
    assert ranks.tolist() == [1, 2, math.inf, 1]
    assert accuracy(ranks).value() == 0.5
    assert accuracy(ranks, top=2).value() == 0.75


def test_letter_case_and_blanks_around_do_not_count_and_part_of_a_name_is_not_the_name() -> None:
    ranks = right_ranks([["Fire Truck"], [" fire truck "], ["truck"]], [["FIRE truck"]] * 3)
    assert ranks.tolist() == [1, 1, math.inf]


def test_any_name_of_a_concept_is_right() -> None:
    assert right_ranks([["dog", "Tinca tinca", "tench"]], [["tench", "tinca tinca"]]).tolist() == [2]


@given(st.lists(st.tuples(st.permutations(WORDS), st.sampled_from(WORDS)), min_size=1, max_size=6))
@QUICK
def test_accuracy_grows_with_the_labels_looked_at_up_to_1(neurons: list[tuple[list[str], str]]) -> None:
    ranks = right_ranks([words for words, _ in neurons], [[true] for _, true in neurons])
    by_top = [accuracy(ranks, top).value() for top in (1, 2, 3, 4)]
    assert by_top == sorted(by_top)
    assert by_top[2:] == [1.0, 1.0]


def test_numbers_of_neurons_that_differ_are_refused_by_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"2 neurons have labels and 1 have a true concept"):
        right_ranks([["cat"], ["dog"]], [["cat"]])


def test_no_neuron_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no neuron"):
        right_ranks([], [])


@given(st.lists(st.tuples(*[SCORES] * 4), min_size=1, max_size=4), st.lists(st.booleans(), min_size=4, max_size=4))
@QUICK
def test_a_rank_among_all_concepts_is_where_a_stable_sort_puts_the_first_right_one(
    rows: list[tuple[float, ...]], right: list[bool]
) -> None:
    similarities = np.array(rows)
    expected = []
    for row in rows:
        order = sorted(range(4), key=lambda concept: -row[concept])
        expected.append(next((rank for rank, concept in enumerate(order, 1) if right[concept]), math.inf))
    assert ranks_in(similarities, np.tile(right, (len(rows), 1))).tolist() == expected


def test_a_concept_without_a_similarity_ranks_behind_all_and_is_never_found() -> None:
    similarities = np.array([[math.nan, 1.0, 2.0], [math.nan, -math.inf, 3.0]])
    assert ranks_in(similarities, np.array([[False, True, False], [True, True, False]])).tolist() == [2, math.inf]


@given(st.lists(st.sampled_from([1.0, 2.0, 3.5, math.inf]), min_size=1, max_size=7))
@QUICK
def test_mean_and_median_are_those_of_the_standard_library(values: list[float]) -> None:
    assert mean(np.array(values)).value() == pytest.approx(statistics.fmean(values))
    assert median(np.array(values)).value() == statistics.median(values)


@given(st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 3)), min_size=1, max_size=8))
@QUICK
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(units: list[tuple[float, bool, int]]) -> None:
    scores, right = np.array([s for s, _, _ in units]), np.array([r for _, r, _ in units])
    statistic = roc_auc(scores, right)
    for counts in (np.ones(len(units), dtype=np.int64), np.array([count for _, _, count in units])):
        times = [unit for unit, count in zip(units, counts, strict=True) for _ in range(count)]
        pairs = [
            (a > b) + (a == b) / 2
            for a, is_right, _ in times
            if is_right
            for b, is_other_right, _ in times
            if not is_other_right
        ]
        area = statistic.of_counts(counts[None, :])[0]
        assert area == pytest.approx(statistics.fmean(pairs)) if pairs else math.isnan(area)


def test_ties_at_infinity_are_ties() -> None:
    scores = np.array([-math.inf, -math.inf, 1.0, 1.0])
    assert roc_auc(scores, np.array([True, False, True, False])).value() == 0.5


def test_labels_are_as_diverse_as_their_shares() -> None:
    labels = ["cat", "Cat ", "dog", "bird"]
    assert distinct(labels) == 3
    assert entropy(labels) == pytest.approx(1.5)
    assert entropy(["cat"] * 5) == 0 and entropy(list("abcdefgh")) == pytest.approx(3)
