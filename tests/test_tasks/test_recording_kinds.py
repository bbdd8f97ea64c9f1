"""What is kept of activations, in how many pieces, and by how many summary functions: the same numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from storage import arrays
from storage.completion import Rows
from tasks import feed
from tasks import images as decoding
from tasks.dissection.errors import LayerError
from tasks.observation import plan_observation
from tasks.observe import observe
from tasks.space import space_needed
from tasks.spec import RecordSpec
from tests.test_tasks.conftest import Bench, activations, image_embeddings, labelled, observed, recording, shard
from tests.tiny_models import ColourNet, to_tensor


def test_several_summary_functions_take_one_pass_and_are_those_of_each_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(feed, "decode", lambda *of: decoded.append(1) or decoding.decode(*of))
    given = bench.spec().model_dump(include=set(RecordSpec.model_fields))
    both = RecordSpec(**{**given, "summary": ("mean", "max")})
    plan = observed(shard(both), None, both)
    assert len(decoded) == 48
    assert list(plan.activations) == ["mean", "max"]
    for summary, of in plan.activations.items():
        alone = bench.spec(summary=summary, store=f"{bench.store}-{summary}")
        found = arrays.read_rows(of.group(), "conv", Rows(0, 48))
        assert np.array_equal(found, activations(observed(shard(alone), None, alone), "conv"))
        assert plan_observation(plan.probe, None, bench.spec(summary=summary)).missing == ()


def test_labels_are_of_one_summary_function(bench: Bench) -> None:
    with pytest.raises(ValidationError, match=r"--summary mean,max: labels are of one .*record"):
        bench.spec(summary="mean,max")


def test_half_the_space_holds_the_same_to_the_third_digit(bench: Bench) -> None:
    spec, half = bench.spec(), bench.spec(activations="float16")
    probe = shard(spec)
    whole, halved = observed(probe, None, spec), observed(probe, None, half)
    found = activations(halved, "conv")
    assert found.dtype == np.float16
    assert np.array_equal(found, activations(whole, "conv").astype(np.float16))


def test_labels_of_half_the_space_are_of_what_is_kept(bench: Bench) -> None:
    plan = labelled(bench.spec(activations="float16"))
    kept = arrays.read_rows(plan.activations.group(), "head", Rows(0, 48)).astype(np.float32)
    top = plan.top_images("head")
    assert np.array_equal(top["activation"].to_numpy(), kept[top["row"], top["neuron"]])


class Loud(ColourNet):
    """Activations beyond float16."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e5 * super().forward(x)


def loud() -> tuple[nn.Module, object]:
    net = nn.Sequential()
    net.add_module("body", Loud())
    return net, to_tensor


def test_activations_that_half_precision_cannot_hold_are_refused(bench: Bench) -> None:
    spec = bench.spec(target=f"{__name__}:loud", layers=("body",), activations="float16")
    probe = shard(spec)
    with pytest.raises(LayerError, match=r"'body' has activations up to [\d,]+, .* 65,504.*--activations float32"):
        observed(probe, None, spec)
    assert len(plan_observation(probe, None, spec).missing) == 1


def test_top_images_alone_give_the_same_labels(bench: Bench) -> None:
    whole, top = labelled(bench.spec()), labelled(bench.spec(activations="top"))
    of = top.activations
    assert list(of.group().array_keys()) == []
    for layer in ("conv", "head"):
        pd.testing.assert_frame_equal(top.labels(layer), whole.labels(layer))
        pd.testing.assert_frame_equal(top.top_images(layer), whole.top_images(layer))


@pytest.mark.parametrize(
    "similarity",
    [{"similarity": "cos", "top_k": None}, {"similarity": "rank_reorder", "top_k": None}, {"top_k": 101}],
)
def test_top_images_alone_are_refused_where_they_do_not_do(bench: Bench, similarity: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="looks at more activations than the 100 largest"):
        bench.spec(activations="top", **similarity)


@pytest.mark.parametrize("batch_size", [5, 16])
def test_zarr_shards_that_are_parts_of_a_group_hold_the_same(
    bench: Bench, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.spec(batch_size=batch_size)
    probe = shard(spec)
    whole = observed(probe, spec, spec)
    monkeypatch.setattr("storage.completion.MAX_SHARD_BYTES", 8 * 4 * 4)  # 8 images of 4 neurons
    other = bench.spec(batch_size=batch_size, store=f"{bench.store}-2")
    parts = observed(shard(other), other, other)
    assert recording(parts).group()["conv"].shards == (8, 4)
    for layer in ("conv", "head"):
        assert np.array_equal(activations(parts, layer), activations(whole, layer))
    assert np.array_equal(image_embeddings(parts), image_embeddings(whole))


def test_many_groups_are_few_tasks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = bench.spec(batch_size=4)
    whole = observed(shard(spec), spec, spec)
    monkeypatch.setattr("storage.completion.ROWS_UNIT", 4)
    monkeypatch.setattr("storage.completion.MAX_ROWS", 4)
    monkeypatch.setattr("storage.completion.MAX_TASKS", 5)
    other = bench.spec(batch_size=4, store=f"{bench.store}-2")
    probe = shard(other)
    plan = plan_observation(probe, other, other)
    assert (len(plan.missing), len(plan.work)) == (12, 4)
    observe.fn(plan, plan.work[1])
    assert len(plan_observation(probe, other, other).missing) == 9
    plan = observed(probe, other, other)
    for layer in ("conv", "head"):
        assert np.array_equal(activations(plan, layer), activations(whole, layer))
    assert np.array_equal(image_embeddings(plan), image_embeddings(whole))


def test_half_precision_is_another_recording_near_the_first(bench: Bench) -> None:
    spec, half = bench.spec(), bench.spec(precision="bf16")
    probe = shard(spec)
    whole, halved = observed(probe, None, spec), observed(probe, None, half)
    assert recording(whole).digest != recording(halved).digest
    found, expected = activations(halved, "head"), activations(whole, "head")
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)
    assert np.allclose(found, expected, atol=0.02)


class Greedy(ColourNet):
    """Has memory for seven images."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x)


def greedy() -> tuple[nn.Module, object]:
    return Greedy(), to_tensor


def test_a_recording_whose_batches_do_not_fit_goes_on_with_smaller_ones(bench: Bench) -> None:
    spec, other = bench.spec(), bench.spec(target=f"{__name__}:greedy")
    probe = shard(spec)
    expected = activations(observed(probe, None, spec), "conv")
    assert np.allclose(activations(observed(probe, None, other), "conv"), expected, atol=1e-6)


def test_the_space_needed_is_what_uncompressed_arrays_take(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = bench.spec()
    plan = plan_observation(shard(spec), spec, spec)
    # 48 images of 3 dimensions and 8 neurons; each neuron's 100 top images and 4 statistics.
    needed = "Needs at most 8.77 kB of space (embeddings 576 B, activations 1.54 kB, top images 6.66 kB)"
    assert space_needed(plan).startswith(needed)
    assert space_needed(plan).endswith(" are free.")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert "only 1 kB are free. If they do not fit" in space_needed(plan)


def test_a_reduced_scale_is_another_recording_near_the_first(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        noise = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((160, 120))
        noise.save(bench.images / f"large{number}.jpg", quality=90)
    spec, reduced = bench.spec(layers=("conv",)), bench.spec(layers=("conv",), draft=16)
    probe = shard(spec)
    whole, drafted = observed(probe, None, spec), observed(probe, None, reduced)
    assert recording(whole).digest != recording(drafted).digest
    with pytest.raises(ValueError, match="draft is None for embed, and 16 for record"):
        plan_observation(probe, spec, reduced)
    found, expected = activations(drafted, "conv"), activations(whole, "conv")
    assert probe.index()["width"].tolist() == [24] * 36 + [160] * 4 + [24] * 12
    assert np.array_equal(found[:36], expected[:36])  # too small to be reduced
    assert not np.array_equal(found[36:40], expected[36:40])
    assert np.abs(found - expected).max() < 2 / 255
