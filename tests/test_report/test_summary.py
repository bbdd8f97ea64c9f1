from __future__ import annotations

from tasks.report.rows import Layer, Report
from tasks.report.summary import NUM_BINS, NUM_FREQUENT, Scale, summarise
from tests.test_report.conftest import make_neuron


def test_counts(report: Report) -> None:
    last, first = summarise(report.layers)
    assert (last.num_neurons, last.num_dead, last.num_distinct) == (4, 1, 2)
    assert (last.num_truths, last.num_right) == (4, 2)
    assert (first.num_truths, first.num_right) == (0, 0)
    assert last.median == 2.0


def test_frequent_labels_are_shared_ones_ties_by_name() -> None:
    names = ["b", "a", "c", "b", "a", "b", "d"] + [f"x{i}" for i in range(20)] * 2
    layer = Layer("fc", tuple(make_neuron(i, name) for i, name in enumerate(names)))
    frequent = summarise([layer])[0].frequent
    assert frequent[:3] == (("b", 3), ("a", 2), ("x0", 2))
    assert len(frequent) == NUM_FREQUENT
    assert not {"c", "d"} & {label for label, _ in frequent}


def test_histograms_share_their_axis(report: Report) -> None:
    low = Layer("low", (make_neuron(0, "a", similarity=0.0), make_neuron(1, "a", similarity=0.0)))
    high = Layer("high", (make_neuron(0, "a", similarity=9.0),))
    bars = [summary.bars for summary in summarise([low, high])]
    assert bars[0] == (1.0, *[0.0] * (NUM_BINS - 1))
    assert bars[1] == (*[0.0] * (NUM_BINS - 1), 1.0)


def test_a_scale_says_where_a_value_stands(report: Report) -> None:
    scale = Scale.of(report.layers)
    assert [scale.share(value) for value in (0.9, 1.0, 2.5, 3.0, 3.1)] == [None, 0.0, 0.75, 1.0, None]
    assert Scale.of([Layer("one", (make_neuron(0, "a", similarity=2.0),))]).share(2.0) == 0.0


def test_one_value_and_no_value() -> None:
    one, none = summarise([Layer("one", (make_neuron(0, "a"),)), Layer("none", (make_neuron(0),))])
    assert sum(one.bars) == 1.0
    assert sum(none.bars) == 0.0
    assert none.median is None
