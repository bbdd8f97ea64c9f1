"""Details of neurons: those of all activations, whatever the blocks; and what a bound leaves out is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from storage.completion import Rows
from storage.errors import DamagedError
from storage.files import Folder
from tasks import summaries
from tasks.detailing import IMAGE_RANGES, NEURONS, SIMILAR, DetailsPlan, notes, plan_details
from tasks.details import join_details, measure
from tasks.dissection.ranges import RANGES
from tasks.observation import ActivationsRef
from tasks.publish import plan_publication, publish, republish_report
from tasks.published import DETAILS, INPUTS, SIMILAR_NEURONS, has_details, read_run, read_table
from tasks.published import IMAGE_RANGES as PUBLISHED_RANGES
from tests import reference
from tests.test_tasks.conftest import Bench, activations, detailed, labelled, observed
from tests.test_tasks.test_recorded import LAYER, record

TABLES = NEURONS, IMAGE_RANGES, SIMILAR


@pytest.fixture
def bench(labelled_bench: Bench) -> Bench:
    """Labelled, as all that gets details."""
    return labelled_bench


@pytest.fixture
def small(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shard groups of 12 images or twice as many too, of which 5 are kept."""
    monkeypatch.setattr("storage.completion.ROWS_UNIT", 12)
    monkeypatch.setattr("storage.completion.MAX_TASKS", 4)
    monkeypatch.setattr(summaries, "TOP_IMAGES_RECORDED", 5)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 2 neurons, and strips of as many."""
    for module in ("detailing", "details"):
        monkeypatch.setattr(f"tasks.{module}.NEURONS_UNIT", 2)
    monkeypatch.setattr("tasks.detailing.ACTIVATIONS_PER_BLOCK", 1)
    monkeypatch.setattr("tasks.details.ACTIVATIONS_PER_STRIP", 1)


def drawn(num_images: int = 77, num_neurons: int = 7) -> Tensor:
    """Activations with ties; neuron 0 is dead, 1 follows 2, 3 has no finite one, and some others are ignored."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(num_images, num_neurons, generator=generator).mul(4).round()
    A[:, 0], A[:, 1] = 1.0, 2 * A[:, 2] + 1
    A[3:4, 4], A[5:14, 5], A[:, 3] = -torch.inf, -torch.inf, -torch.inf
    return A


def plan_of(ref: ActivationsRef, num_images: int, is_all: bool = False) -> DetailsPlan:
    return DetailsPlan(ref, num_images, is_all, 0.01, f"{ref.kept}-{is_all}", (LAYER,))


def tables(plan: DetailsPlan) -> dict[str, pd.DataFrame]:
    """Those of a plan, made anew."""
    plan.folder(LAYER).remove()
    for block in plan.blocks(LAYER):
        measure.fn(plan, LAYER, block)
    join_details.fn(plan, LAYER)
    return {name: plan.table(LAYER, name) for name in TABLES}


def found(folder: Path, A: Tensor, is_all: bool = False, **how: Any) -> dict[str, pd.DataFrame]:
    ref = replace(record(folder, A), **how)
    return tables(plan_of(ref, len(A), is_all))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("num_images", [1, 3, 12, 77])
def test_moments_and_histograms_are_numpys(tmp_path: Path, num_images: int) -> None:
    A = drawn(num_images)
    neurons = found(tmp_path, A)[NEURONS]
    assert neurons["neuron"].tolist() == list(range(7))
    for row, q in zip(neurons.itertuples(), A.T.numpy(), strict=True):
        q = q[np.isfinite(q)].astype(np.float64)
        if not len(q):
            assert pd.isna([row.mean, row.std, row.minimum, row.maximum]).all()
            assert len(row.edges) == len(row.counts) == 0
            continue
        moments = [row.mean, row.std, row.minimum, row.maximum]
        assert moments == pytest.approx([q.mean(), q.std(), q.min(), q.max()], abs=1e-6)
        counts, edges = np.histogram(q, len(row.counts))
        assert row.counts.tolist() == counts.tolist() and np.allclose(row.edges, edges)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kept", ["float32", "top"])
def test_images_are_drawn_from_the_most_active_of_those_that_count(tmp_path: Path, kept: str) -> None:
    A = drawn()
    ranges = found(tmp_path, A, kept=kept)[IMAGE_RANGES]
    assert set(ranges["neuron"]) == {0, 1, 2, 4, 5, 6}
    for (neuron, name), table in ranges.groupby(["neuron", "range"]):
        q = A[:, int(str(neuron))]
        size = max(1, int(q.isfinite().sum()) * RANGES[str(name)] // 1000)  # one, and three of 5 %
        assert len(table) == size
        assert table["row"].tolist() == reference.top_images(q.numpy(), size)
        assert table["activation"].tolist() == [float(q[row]) for row in table["row"]]
    assert ranges.groupby("neuron").size().tolist() == [5] * 6


@pytest.mark.usefixtures("small")
def test_of_top_images_alone_what_is_sure_is_given_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "TOP_IMAGES_RECORDED", 8)
    A = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
    A[:, 5] = -torch.arange(200)  # all ten of its 5 % are in the first group, of which 8 are kept
    whole, top = found(tmp_path / "whole", A), found(tmp_path / "top", A, kept="top")
    known = [neuron for neuron, table in top[IMAGE_RANGES].groupby("neuron") if "5 %" in set(table["range"])]
    assert known and 5 not in known
    both = whole[IMAGE_RANGES].merge(top[IMAGE_RANGES][["neuron", "range"]].drop_duplicates())
    assert both.equals(top[IMAGE_RANGES]) and {"0.1 %", "1 %"} <= set(top[IMAGE_RANGES].query("neuron == 5")["range"])
    moments = ["neuron", "mean", "minimum", "maximum"]
    assert top[NEURONS][moments].equals(whole[NEURONS][moments])
    assert top[NEURONS]["std"].isna().all() and all(len(edges) == 0 for edges in top[NEURONS]["edges"])
    assert top[SIMILAR].empty and not whole[SIMILAR].empty


@pytest.mark.usefixtures("small")
def test_neighbours_follow_each_other_and_the_dead_have_none(tmp_path: Path) -> None:
    similar = found(tmp_path, drawn())[SIMILAR]
    assert set(similar["neuron"]) == set(similar["other"]) == {1, 2, 4, 5, 6}
    first = similar[similar["rank"] == 1].set_index("neuron")
    assert first.loc[1, "other"] == 2 and first.loc[2, "other"] == 1
    assert first.loc[[1, 2], "value"].tolist() == [1, 1]
    assert similar.groupby("neuron")["value"].apply(lambda of: of.is_monotonic_decreasing).all()


@pytest.mark.usefixtures("small")
def test_neurons_are_correlated_over_the_images_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOST_COMPARED", "LEAST_COMPARED"):
        monkeypatch.setattr(f"tasks.detailing.{name}", 30)
    A = torch.from_numpy(np.random.default_rng(0).normal(size=(77, 7)).astype(np.float32))
    plan = plan_of(record(tmp_path, A), 77)
    assert len(plan.compared(LAYER)) == 30
    correlations = np.corrcoef(A.numpy()[plan.compared(LAYER)].T)
    for row in tables(plan)[SIMILAR].itertuples():
        assert row.value == pytest.approx(correlations[row.neuron, row.other], abs=2e-6)


def test_tables_do_not_depend_on_blocks_strips_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(record(tmp_path, drawn(300, 9)), 300)
    whole = tables(plan)
    before = {name: plan.folder(LAYER).read(name) for name in TABLES}
    for module in ("detailing", "details"):
        monkeypatch.setattr(f"tasks.{module}.NEURONS_UNIT", 2)
    monkeypatch.setattr("tasks.detailing.ACTIVATIONS_PER_BLOCK", 300 * 4)
    monkeypatch.setattr("tasks.details.ACTIVATIONS_PER_STRIP", 300 * 2)
    assert plan.blocks(LAYER) == [Rows(0, 4), Rows(4, 8), Rows(8, 9)]
    tables(replace(plan, memory=1e-9))
    assert {name: plan.folder(LAYER).read(name) for name in TABLES} == before
    assert all(len(table) for table in whole.values())


@pytest.mark.usefixtures("small")
def test_of_very_many_activations_a_sample_of_the_images_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.detailing.MOST_ACTIVATIONS", 50 * 7)
    A = drawn()
    ref = record(tmp_path, A)
    plan, whole = plan_of(ref, 77), plan_of(ref, 77, is_all=True)
    assert plan.num_read(LAYER) == sum(map(len, plan.rows(LAYER))) < 50 < whole.num_read(LAYER) == 77
    rows = np.concatenate([np.arange(part.start, part.stop) for part in plan.rows(LAYER)])
    sampled, of_all = tables(plan), tables(whole)
    for one, every, q in zip(sampled[NEURONS].itertuples(), of_all[NEURONS].itertuples(), A.T.numpy(), strict=True):
        assert np.array_equal(one.edges, every.edges)
        if len(one.edges):
            here = q[rows][np.isfinite(q[rows])].astype(np.float64)
            assert one.counts.sum() == len(here) < every.counts.sum()
            assert one.std == pytest.approx(here.std(), abs=1e-6)
    assert set(sampled[IMAGE_RANGES]["row"]) <= set(rows.tolist())
    assert set(plan.compared(LAYER)) <= set(rows.tolist())
    [note] = notes(replace(plan, activations=replace(ref, num_neurons={LAYER: 7})))
    assert f"{plan.num_read(LAYER)} of 77 images" in note and "539 activations" in note and "--details all" in note
    assert notes(whole) == []


def test_neurons_of_a_very_wide_layer_are_compared_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.detailing.MOST_NEURONS", 6)
    ref = record(tmp_path, drawn())
    plan, whole = plan_of(ref, 77), plan_of(ref, 77, is_all=True)
    assert tables(plan)[SIMILAR].empty and len(tables(whole)[SIMILAR])
    [note] = notes(plan)
    assert "it has 7, more than 6" in note and "--details all" in note


@pytest.mark.parametrize(("num_neurons", "num_compared"), [(10, 3_000), (2**13, 2**11), (2**15, 1_024)])
def test_a_wide_layer_is_compared_over_fewer_images(tmp_path: Path, num_neurons: int, num_compared: int) -> None:
    ref = replace(record(tmp_path, drawn()), num_neurons={LAYER: num_neurons})
    compared = plan_of(ref, 3_000).compared(LAYER)
    assert len(compared) == len(set(compared)) == num_compared and compared == sorted(compared)


@pytest.mark.usefixtures("small_blocks")
def test_a_killed_run_goes_on_at_the_block(bench: Bench) -> None:
    spec = bench.spec()
    probe = labelled(spec).probe
    plan = plan_details(probe, spec)
    assert plan.missing == ("conv", "head") and len(plan.unmeasured("head")) == 2
    measure.fn(plan, "head", plan.blocks("head")[1])
    assert plan_details(probe, spec).unmeasured("head") == plan.blocks("head")[:1]
    measure.fn(plan, "head", plan.blocks("head")[0])
    before = plan.blocks_folder("head").names()
    left = {name: plan.blocks_folder("head").read(name) for name in before}
    join_details.fn(plan, "head")
    assert not plan.blocks_folder("head").exists()
    assert plan_details(probe, spec).missing == ("conv",)
    for name, data in left.items():  # killed when it had marked the layer
        plan.blocks_folder("head").write(name, data)
    assert plan.unmeasured("head") == []
    plan_details(probe, spec)
    assert not plan.blocks_folder("head").exists()


def test_what_another_run_has_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(record(tmp_path, drawn()), 77)
    [block] = plan.blocks(LAYER)
    measure.fn(plan, LAYER, block)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.details._measure", None)
        measure.fn(plan, LAYER, block)
    join_details.fn(plan, LAYER)
    monkeypatch.setattr("tasks.details._measure", None)
    monkeypatch.setattr("tasks.details._join", None)
    measure.fn(plan, LAYER, block)
    join_details.fn(plan, LAYER)
    assert plan.done(LAYER).has("done")


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_details_are_of_what_was_recorded(bench: Bench, kind: str) -> None:
    spec = bench.spec(activations=kind)
    plan = labelled(spec)
    details = detailed(plan.probe, spec)
    assert details is not None
    A = activations(observed(plan.probe, None, spec), "head").astype(np.float64)
    neurons = details.table("head", NEURONS)
    assert np.allclose(neurons[["mean", "std"]].astype(float), np.stack([A.mean(0), A.std(0)], 1), atol=1e-6)
    correlations = np.corrcoef(A.T)
    for row in details.table("head", SIMILAR).itertuples():
        assert row.value == pytest.approx(correlations[row.neuron, row.other], abs=2e-6)


def test_an_image_alone_has_no_neighbours_and_is_every_range(bench: Bench) -> None:
    spec = bench.spec(limit=1)
    details = detailed(labelled(spec).probe, spec)
    assert details is not None
    assert details.table("head", SIMILAR).empty
    assert details.table("head", IMAGE_RANGES)["row"].tolist() == [0] * 12


def published(bench: Bench, out: Path, **changes: Any) -> dict[str, Any]:
    spec = bench.spec(out=str(out), **changes)
    labels = labelled(spec)
    plan = plan_publication(labels, spec, detailed(labels.probe, spec))
    assert not plan.is_done
    publish.fn(plan)
    assert plan_publication(labels, spec, detailed(labels.probe, spec)).is_done
    return read_run(Folder.at(str(out)))


def test_all_tables_are_published_with_their_layers(bench: Bench, tmp_path: Path) -> None:
    run = published(bench, tmp_path, ranks=1)
    assert has_details(run) and run["details"]["head"] == {"images_read": 48, "images_compared": 48}
    read = {name: read_table(Folder.at(str(tmp_path)), name) for name in DETAILS}
    assert all(list(dict.fromkeys(table["layer"])) == ["conv", "head"] for table in read.values())
    ranges = read[PUBLISHED_RANGES]
    assert ranges[(ranges["layer"] == "head") & (ranges["neuron"] == 1)]["image"].str.startswith("green/").all()
    by_label = read[SIMILAR_NEURONS].query("by == 'label' and layer == 'head' and rank == 1")
    # Of red, green, blue and grey, grey is as near to each.
    assert by_label["other"].tolist() == [3, 3, 3, 0]
    assert by_label["value"].tolist() == pytest.approx([3**-0.5] * 4, abs=1e-6)
    of_conv = read[SIMILAR_NEURONS].query("by == 'label' and layer == 'conv'")
    assert set(of_conv["neuron"]) == set(of_conv["other"]) == {0, 1, 2}  # the fourth is dead
    inputs = read[INPUTS].query("layer == 'head' and neuron == 0")
    assert inputs[["rank", "input_layer", "input", "weight"]].values.tolist() == [
        [1, "conv", 0, 2.0],
        [1, "conv", 1, -1.0],
        [2, "conv", 2, -1.0],
    ]
    assert set(read[INPUTS].query("layer == 'conv'")["input_layer"]) == {""}


def test_a_run_without_details_takes_those_of_the_run_before_away(bench: Bench, tmp_path: Path) -> None:
    published(bench, tmp_path)
    run = published(bench, tmp_path, details="none")
    assert not has_details(run) and run["details"] == {}
    assert not any((tmp_path / name).exists() for name in DETAILS)
    republish_report(str(tmp_path))


def test_details_asked_for_later_record_nothing_again(bench: Bench, tmp_path: Path) -> None:
    without = published(bench, tmp_path, details="none")
    run = published(bench, tmp_path)
    same = {name: digest for name, digest in run["digests"].items() if name != "details"}
    assert same == without["digests"] and run["digest"] != without["digest"]


def test_what_top_images_cannot_tell_is_noted(bench: Bench, tmp_path: Path) -> None:
    run = published(bench, tmp_path, activations="top")
    assert any("--activations top" in note and "histograms" in note for note in run["notes"])
    for name in DETAILS:
        read_table(Folder.at(str(tmp_path)), name)


@pytest.mark.parametrize("column", ["edges", "counts"])
def test_a_table_whose_lists_are_no_lists_is_none_of_a_run(bench: Bench, tmp_path: Path, column: str) -> None:
    published(bench, tmp_path)
    neurons = pd.read_parquet(tmp_path / "neurons.parquet")
    neurons[column] = 1
    neurons.to_parquet(tmp_path / "neurons.parquet")
    with pytest.raises(DamagedError, match=f"its column '{column}' is int64, not lists of numbers"):
        read_table(Folder.at(str(tmp_path)), "neurons.parquet")
