"""Two layers side by side, on tables so small that the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks import compare
from tasks.label_tables import DEAD


def labels(*neurons: list[tuple[str, float]]) -> pd.DataFrame:
    """Labels of a layer, best first; margins are to the next one given."""
    rows = [
        (neuron, rank, concept, similarity, similarity - ranked[rank][1] if rank < len(ranked) else None)
        for neuron, ranked in enumerate(neurons)
        for rank, (concept, similarity) in enumerate(ranked, 1)
    ]
    table = pd.DataFrame(rows, columns=["neuron", "rank", "concept", "similarity", "margin"])
    return table.astype({"margin": "Float64"})


def tops(*neurons: list[int] | list[tuple[int, float]]) -> pd.DataFrame:
    """Top images of a layer, best first: rows, with falling activations unless they are given."""
    rows = [
        (neuron, rank, *(image if isinstance(image, tuple) else (image, 10.0 - rank)))
        for neuron, images in enumerate(neurons)
        for rank, image in enumerate(images, 1)
    ]
    return pd.DataFrame(rows, columns=["neuron", "rank", "row", "activation"]).astype({"activation": "float32"})


def matched(table: pd.DataFrame) -> dict[int, Any]:
    return {
        row.neuron_before: (None if pd.isna(row.neuron_after) else row.neuron_after, row.is_mutual)
        for row in table.itertuples()
    }


class TestMatchesByTopImages:
    def test_shuffled_neurons_find_themselves(self) -> None:
        rng = np.random.default_rng(0)
        images = [rng.choice(500, 6, replace=False).tolist() for _ in range(40)]
        order = rng.permutation(40)
        table = compare.match_by_top_images(tops(*images), tops(*(images[i] for i in order)), 6, 500)
        assert table["neuron_before"].tolist() == list(range(40))
        assert order[table["neuron_after"].to_numpy(int)].tolist() == list(range(40))
        assert (table["overlap"] == 1).all() and table["is_mutual"].all()
        assert (table["null_quantile"] == 1).all()

    def test_matches_of_strangers_are_no_better_than_by_chance(self) -> None:
        rng = np.random.default_rng(2)
        before, after = (tops(*(rng.choice(60, 6, replace=False).tolist() for _ in range(200))) for _ in range(2))
        table = compare.match_by_top_images(before, after, 6, 60)
        assert table["overlap"].min() > 0 and table["is_mutual"].any()
        assert (table["null_quantile"] >= 0.95).mean() < 0.1 and table["null_quantile"].max() < 1

    def test_overlap_is_the_jaccard_index_and_one_of_two_is_the_mutual_match(self) -> None:
        before = tops([1, 2, 3, 4], [1, 2, 3, 9], [70, 71, 72, 73])
        after = tops([1, 2, 3, 5], [1, 2, 3, 4])
        table = compare.match_by_top_images(before, after, 4, 80)
        assert table["overlap"].tolist() == [1.0, 3 / 5, 0.0]
        # Of the second's equal matches the first is taken, whose own best is the first.
        assert matched(table) == {0: (1, True), 1: (0, False), 2: (None, False)}

    def test_only_the_first_images_count(self) -> None:
        before, after = tops([1, 2, 8, 9]), tops([2, 1, 6, 7])
        assert compare.match_by_top_images(before, after, 2, 10)["overlap"].tolist() == [1.0]
        assert compare.match_by_top_images(before, after, 4, 10)["overlap"].tolist() == [2 / 6]

    def test_images_that_tie_with_the_last_make_no_strangers_alike(self) -> None:
        # Rows 0 to 3 are there only because they come first.
        floor = [(0, 0.0), (1, 0.0), (2, 0.0), (3, 1e-9)]
        before = tops([(40, 3.0), *floor], [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)])
        after = tops([(41, 3.0), *floor], [(40, 2.0), *floor])
        assert matched(compare.match_by_top_images(before, after, 5, 50)) == {0: (1, True), 1: (None, False)}

    def test_blocks_give_what_the_whole_gives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(1)
        before, after = (tops(*(rng.choice(30, 5, replace=False).tolist() for _ in range(25))) for _ in range(2))
        whole = compare.match_by_top_images(before, after, 5, 30)
        monkeypatch.setattr(compare, "MOST_PAIRS", 7)
        assert len(list(compare._overlaps(before, after))) > 10
        pd.testing.assert_frame_equal(compare.match_by_top_images(before, after, 5, 30), whole)
        assert 0 < whole["is_mutual"].sum() < 25

    def test_of_its_own_number_a_neuron_keeps_what_it_keeps(self) -> None:
        same = [(0, 1.0), (1, 1.0)]
        table = compare.own_overlaps(tops([1, 2], [3, 4], same), tops([1, 2], [4, 5], same), 2)
        assert table["overlap"].tolist() == [1.0, 1 / 3, 0.0]


def test_by_label_the_most_similar_neurons_are_each_other_s_match() -> None:
    before = labels([("cat", 1.0)], [("cat", 2.0)], [("dog", 1.0)], [(DEAD, 0.0)])
    after = labels([(DEAD, 0.0)], [("cat", 0.5)], [("cat", 0.7)])
    table = compare.match_by_label(before, after)
    assert matched(table) == {0: (2, False), 1: (2, True), 2: (None, False), 3: (None, False)}
    assert table["overlap"].isna().all()
    named = compare.with_first_labels(table, before, after)
    assert named["label_before"].tolist() == ["cat", "cat", "dog", DEAD]
    assert named["label_after"].fillna("").tolist() == ["cat", "cat", "", ""]


class TestChanges:
    def test_changed_first_labels_come_with_ranks_and_those_that_are_gone_first(self) -> None:
        before = labels(
            [("cat", 1.0), ("dog", 0.9)],
            [("sky", 1.0), ("sea", 0.5)],
            [("red", 1.0), ("green", 0.9)],
            [("hat", 3.0), ("cap", 1.0)],
            [(DEAD, 0.0)],
            [("sun", 1.0)],
        )
        after = labels(
            [("dog", 1.1), ("cat", 0.9)],
            [("sky", 0.2)],
            [("blue", 1.0), ("pink", 0.8)],
            [("shoe", 2.0), ("cap", 1.5)],
            [(DEAD, 0.0)],
            [(DEAD, 0.0)],
        )
        pairs = compare.paired(compare.by_number(before, after), before, after)
        assert pairs["neuron_before"].tolist() == [0, 1, 2, 3, 5]  # one is dead in both
        table = compare.changed(pairs)
        # Hat to shoe stands out by 2.5, red to blue by 0.3, sun to dead by nothing.
        assert table["neuron_before"].tolist() == [3, 2, 5, 0]
        assert table["label_before"].tolist() == ["hat", "red", "sun", "cat"]
        assert table["label_after"].tolist() == ["shoe", "blue", DEAD, "dog"]
        assert table["rank_of_old"].fillna(0).tolist() == [0, 0, 0, 2]
        assert table["rank_of_new"].fillna(0).tolist() == [0, 0, 0, 2]
        assert table["similarity_before"].tolist() == [3.0, 1.0, 1.0, 1.0]
        assert table["margin_after"].iloc[3] == pytest.approx(0.2)

    def test_neurons_of_other_numbers_are_compared_as_they_match(self) -> None:
        before, after = labels([("cat", 1.0)], [("dog", 1.0)]), labels([("wolf", 1.0)], [("cat", 1.0)])
        pairs = pd.DataFrame({"neuron_before": [0, 1], "neuron_after": [1, 0], "overlap": [0.5, 0.4]})
        table = compare.changed(compare.paired(pairs, before, after))
        [row] = table.itertuples()
        assert (row.neuron_before, row.neuron_after, row.label_after, row.overlap) == (1, 0, "wolf", 0.4)


def test_concepts_are_counted_and_sorted_by_how_much_their_share_changed() -> None:
    before = labels([("cat", 1.0)], [("cat", 1.0)], [("dog", 1.0)], [("sky", 1.0)], [(DEAD, 0.0)])
    after = labels(*([("dog", 1.0), ("cat", 0.1)] for _ in range(6)), [("sky", 1.0)], [("sea", 1.0)])
    table = compare.concept_counts(before, after).set_index("concept")
    assert table.index.tolist() == ["cat", "dog", "sea", "sky"]
    assert table["neurons_before"].to_dict() == {"cat": 2, "dog": 1, "sea": 0, "sky": 1}
    assert table["neurons_after"].to_dict() == {"cat": 0, "dog": 6, "sea": 1, "sky": 1}
    assert table["change"].to_dict() == {"cat": "lost", "dog": "more", "sea": "gained", "sky": "same"}
    assert table["share_after"].to_dict() == {"cat": 0, "dog": 6 / 8, "sea": 1 / 8, "sky": 1 / 8}


def test_layers_in_which_all_are_dead_have_no_concepts_and_no_changes() -> None:
    dead = labels([(DEAD, 0.0)])
    assert compare.concept_counts(dead, dead).empty
    assert compare.changed(compare.paired(compare.by_number(dead, dead), dead, dead)).empty
    nothing = tops([(0, 1.0), (1, 1.0)])
    assert matched(compare.match_by_top_images(nothing, nothing, 2, 2)) == {0: (None, False)}
