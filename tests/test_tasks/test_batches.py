"""Forward passes by batches that fit, side by side on a CPU, each with a network of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import pytest
import torch
from torch import Tensor, nn

from tasks.models.batches import Batches, Replicas
from tasks.models.devices import Placement
from tasks.models.errors import ModelError

CPU = torch.device("cpu")


def doubled(images: Tensor) -> dict[str, Tensor]:
    return {"doubled": 2 * images.flatten(1)}


def test_a_batch_is_always_filled_and_gives_what_its_images_give() -> None:
    sizes: list[int] = []

    def forward(images: Tensor) -> dict[str, Tensor]:
        sizes.append(len(images))
        return doubled(images)

    images = torch.arange(7 * 3.0).reshape(7, 3, 1, 1)
    found = Batches("network", Placement(CPU)).start(forward, images, 4)()
    assert sizes == [4, 4]
    assert torch.equal(found["doubled"], 2 * images.flatten(1))


class Small:
    """A device with memory for so many images; `error` says that it is full."""

    def __init__(self, room: int, error: RuntimeError) -> None:
        self.room, self.error, self.sizes = room, error, list[int]()

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.error
        return doubled(images)


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
]


@pytest.mark.parametrize("error", FULL, ids=["cuda", "cpu", "mps"])
def test_a_batch_that_does_not_fit_is_halved_and_tried_again(error: RuntimeError) -> None:
    images = torch.arange(20.0).reshape(20, 1, 1, 1)
    batches, forward = Batches("network", Placement(CPU)), Small(3, error)
    assert torch.equal(batches.start(forward, images, 16)()["doubled"], 2 * images.flatten(1))
    # The two passes begin side by side, and both find out.
    assert [size for size in forward.sizes if size < 16] == [8, 4] + [2] * 10
    assert 1 <= forward.sizes.count(16) <= 2
    # What did not fit once is not tried again.
    batches.start(forward, images[:4], 16)()
    assert forward.sizes[-2:] == [2, 2]


def test_an_image_that_alone_does_not_fit_is_told_with_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"One image of shape \[1, 1, 1\] alone .* memory of cpu .*--precision bf16"):
        Batches("network", Placement(CPU)).start(Small(0, FULL[0]), torch.zeros(2, 1, 1, 1), 2)()


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^boom$"):
        Batches("network", Placement(CPU)).start(Small(0, RuntimeError("boom")), torch.zeros(2, 1, 1, 1), 2)()


class FloatOnly(nn.Module):
    """Multiplies with a float32 matrix that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.eye(3)
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) @ self.matrix


def test_a_network_that_does_not_run_in_half_precision_is_told() -> None:
    placement = Placement(CPU, "bf16")
    model = placement.place(FloatOnly())
    with pytest.raises(ModelError, match=r"The network x does not run in bf16 .*Use --precision fp32"):
        Batches("network x", placement).start(
            lambda x: {"": model(placement.inputs(x))}, torch.zeros(2, 3, 4, 4), 2
        )()


def test_float32_does_not_depend_on_the_batch_size_beyond_the_fifth_digit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 20))
    images, batches = torch.rand(33, 3, 8, 8), Batches("", Placement(CPU))
    found = [batches.start(lambda x: {"": model(x)}, images, size)()[""] for size in (1, 7, 33, 64)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


class Remembering(nn.Module):
    """Keeps what it was shown between two steps of a forward pass, as feature extractors do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(1))
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        time.sleep(0.002)
        return self.kept.flatten(1) * self.weight


def test_passes_side_by_side_do_not_meet_in_what_a_network_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.dissection.threads.NUM_THREADS", 4)
    replicas = Replicas(Remembering())
    images = torch.arange(40.0).reshape(40, 1, 1, 1)

    def forward(batch: Tensor) -> dict[str, Tensor]:
        with replicas.one() as model:
            return {"kept": model(batch)}

    assert torch.equal(Batches("", Placement(CPU)).start(forward, images, 2)()["kept"], images.flatten(1))


def test_replicas_share_weights_and_nothing_else() -> None:
    model = Remembering()
    replicas = Replicas(model)
    with replicas.one() as mine, replicas.one() as other:
        assert mine.weight is other.weight is model.weight  # type: ignore[union-attr]
        assert len({id(one.seen) for one in (mine, other, model)}) == 3
    with replicas.one() as again:
        assert again in (mine, other)


def hooked() -> nn.Module:
    """A network whose hook writes into a list outside of it, which a copy's hook would write into as well."""
    model, found = Remembering(), list[Tensor]()
    model.register_forward_hook(lambda *_: found.clear())
    return model


def uncopyable() -> nn.Module:
    model = Remembering()
    model.lock = Lock()  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("make", [hooked, uncopyable])
def test_passes_take_turns_where_a_copy_would_not_be_a_network_of_its_own(make: Callable[[], nn.Module]) -> None:
    model = make()
    replicas, inside = Replicas(model), []

    def work(number: int) -> int:
        with replicas.one() as mine:
            assert mine is model
            inside.append(number)
            time.sleep(0.005)
            at_once = len(inside)
            inside.remove(number)
        return at_once

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [1] * 8
