"""Images on their way to the models: in order, each once, a few batches ahead, and errors to whoever takes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest
import torch
from PIL.Image import Image
from torch import Tensor

from storage.completion import Rows
from storage.errors import ShardError
from storage.shards import read_images
from tasks import feed
from tasks.feed import BATCHES_AHEAD, Batch, Clock, Feed, Wanted
from tasks.images import decode
from tasks.models.errors import ModelError
from tasks.models.preprocess import Preprocess
from tests.test_tasks.conftest import Bench, shard
from tests.tiny_models import to_tensor

BOTH = ("first", "second")


def twice(image: Image) -> Tensor:
    return 2 * to_tensor(image)


def fed(bench: Bench, wanted: list[Wanted], size: int, preprocess: Mapping[str, Preprocess] | None = None) -> Feed:
    probe = shard(bench.spec())
    return Feed(probe, wanted, preprocess or {"first": to_tensor, "second": twice}, size, Clock())


@pytest.mark.parametrize("size", [1, 5, 7, 48, 100])
def test_batches_are_of_the_rows_wanted_in_order(bench: Bench, size: int) -> None:
    wanted = [Wanted(Rows(0, 13), BOTH), Wanted(Rows(13, 20), ("second",)), Wanted(Rows(40, 48), ("first",))]
    with fed(bench, [Wanted(Rows(0, 48), ("first",))], 48) as whole:
        [everything] = [batch.inputs["first"] for batch in whole]
    with fed(bench, wanted, size) as batches:
        found: list[Batch] = list(batches)
    rows = [row for batch in found for row in range(batch.rows.start, batch.rows.stop)]
    assert rows == [*range(20), *range(40, 48)]
    assert all(len(batch.rows) <= size for batch in found)
    for batch in found:
        of = everything[batch.rows.start : batch.rows.stop]
        models = next(one.models for one in wanted if one.rows.start <= batch.rows.start < one.rows.stop)
        assert tuple(batch.inputs) == models
        assert all(torch.equal(batch.inputs[model], of if model == "first" else 2 * of) for model in models)


def test_no_more_than_a_few_batches_are_decoded_ahead(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(feed, "decode", lambda *of: decoded.append(1) or decode(*of))
    with fed(bench, [Wanted(Rows(0, 48), ("first",))], 4) as batches:
        taken = iter(batches)
        next(taken)
        until = time.monotonic() + 5
        while len(decoded) < 4 * (BATCHES_AHEAD + 2) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # nothing more comes, however long nobody takes any
        # One is taken, one waits, one is about to wait, and the others are being decoded.
        assert 4 * (BATCHES_AHEAD + 2) <= len(decoded) <= 4 * (BATCHES_AHEAD + 3)
        assert len(list(taken)) == 11
    assert len(decoded) == 48


def test_who_leaves_early_leaves_no_thread(bench: Bench) -> None:
    with fed(bench, [Wanted(Rows(0, 48), ("first",))], 2) as batches:
        next(iter(batches))
    assert not [thread for thread in threading.enumerate() if thread.name == "feed"]


def test_an_image_that_is_none_any_more_is_told_to_who_takes_the_batches(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.images import UndecodableError

    def torn(data: bytes, enough: int | None) -> Image:
        raise UndecodableError("it is torn")

    monkeypatch.setattr(feed, "decode", torn)
    with (
        pytest.raises(
            ShardError,
            match=r"8 of 8 images could .* now cannot: blue/00\.jpg \(24 x 20 pixels\): it is torn; .*5 more",
        ),
        fed(bench, [Wanted(Rows(0, 48), ("first",))], 8) as batches,
    ):
        list(batches)


def test_images_of_different_shapes_make_no_batch_and_two_are_named(bench: Bench) -> None:
    def uneven(image: Image) -> Tensor:
        return torch.zeros(3, 4 + (to_tensor(image)[0].mean() > 0.4).item(), 4)

    words = r"first \(uneven\) gives inputs of 2 shapes.*: \(3, 4, 4\) of blue/00\.jpg .* and \(3, 5, 4\) of grey/00"
    with (
        pytest.raises(ModelError, match=words + r".*Let it resize or crop"),
        fed(bench, [Wanted(Rows(0, 48), ("first",))], 48, {"first": uneven}) as batches,
    ):
        list(batches)


def told_of(bench: Bench, fails: Preprocess, size: int, models: tuple[str, ...] = ("second",)) -> str:
    preprocess = {"first": to_tensor, "second": fails}
    with (
        pytest.raises(ModelError) as caught,
        fed(bench, [Wanted(Rows(0, 48), models)], size, preprocess) as batches,
    ):
        list(batches)
    return str(caught.value)


class OnSome:
    """A preprocessing that fails on the images at some places in the order in which they are decoded here."""

    def __init__(self, error: Exception, pixels: set[bytes]) -> None:
        self.error, self.pixels = error, pixels

    def __call__(self, image: Image) -> Tensor:
        if image.tobytes() in self.pixels:
            raise self.error
        return to_tensor(image)


def pixels_of(bench: Bench, rows: list[int]) -> set[bytes]:
    probe = shard(bench.spec())
    return {decode(data).tobytes() for _, data in read_images(probe.folder, probe.chosen(rows))}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("the crop is wider than the picture"), "ValueError: the crop is wider than the picture"),
        (MemoryError(), "MemoryError: MemoryError"),
        (KeyError("size"), "KeyError: 'size'"),
        (StopIteration(), "StopIteration: StopIteration"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("models", [("second",), BOTH])
def test_an_image_that_cannot_be_preprocessed_is_named(
    bench: Bench, error: Exception, words: str, models: tuple[str, ...]
) -> None:
    path = shard(bench.spec()).index()["path"][30]
    said = told_of(bench, OnSome(error, pixels_of(bench, [30])), 16, models)
    assert said.startswith(
        "The preprocessing for second (OnSome) fails on 1 of the 16 images of a batch: "
        f"{path} (24 x 20 pixels): {words}."
    )
    assert "--probe a .csv list with a column `path`" in said


def test_all_images_of_a_batch_that_cannot_be_preprocessed_are_counted(bench: Bench) -> None:
    said = told_of(bench, OnSome(ValueError("no"), pixels_of(bench, [17, 20, 21, 25, 30, 40])), 16)
    paths = shard(bench.spec()).index()["path"]
    assert "fails on 5 of the 16 images of a batch" in said and said.count("ValueError: no") == 3
    assert all(paths[row] in said for row in (17, 20, 21)) and "; and 2 more." in said


def test_a_preprocessing_that_gives_no_tensor_is_told_so(bench: Bench) -> None:
    said = told_of(bench, lambda image: [1, 2], 16)  # type: ignore[arg-type, return-value]
    assert "fails on 16 of the 16 images" in said and "it gives a list, and a network takes a tensor" in said


def test_the_clock_says_what_time_went_into(bench: Bench) -> None:
    probe, clock = shard(bench.spec()), Clock()

    def slow(image: Image) -> Tensor:
        time.sleep(0.002)
        return to_tensor(image)

    with Feed(probe, [Wanted(Rows(0, 48), ("first",))], {"first": slow}, 8, clock) as batches:
        for _ in batches:
            with clock.timed("inferring"):
                time.sleep(0.001)
    assert clock.seconds["decoding"] >= 48 * 0.002
    assert clock.seconds["inferring"] >= 6 * 0.001
    assert {"reading", "waiting"} <= set(clock.seconds)
