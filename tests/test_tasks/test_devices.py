"""Devices: chosen by name, one task at a time on each, batches that fit."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tasks.models import devices
from tasks.models.devices import Batches, Placement, Replicas, check_devices, choose_devices, held_device, placed
from tasks.models.errors import ModelError

CPU = torch.device("cpu")


@pytest.fixture
def _three_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that says that it has three GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"gpu{device.index}")
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "_locks", {})


@pytest.mark.usefixtures("_three_gpus")
@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [("auto", [0, 1, 2]), ("cuda", [0, 1, 2]), ("cuda:1", [1]), ("cuda:0,2", [0, 2]), ("cuda:2,0,2", [0, 2])],
)
def test_gpus_are_chosen_by_number(wanted: str, numbers: list[int]) -> None:
    assert choose_devices(wanted) == tuple(torch.device("cuda", number) for number in numbers)


def test_the_cpu_is_chosen_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_devices("auto") == choose_devices("cpu") == (CPU,)


@pytest.mark.usefixtures("_three_gpus")
def test_a_gpu_that_is_not_there_is_named_with_the_number_of_those_that_are() -> None:
    with pytest.raises(ModelError, match="There is no device cuda:0,3: this machine shows 3 CUDA devices"):
        choose_devices("cuda:0,3")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:x", "cuda:", "cuda:0,", "cpu:1", ""])
def test_a_device_that_is_none_is_named(device: str) -> None:
    with pytest.raises(ModelError, match=f"There is no device .*{device}"):
        choose_devices(device)


def test_one_task_at_a_time_has_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_locks", {})
    inside: list[int] = []

    def work(number: int) -> int:
        with held_device("cpu") as device:
            inside.append(number)
            time.sleep(0.01)
            at_once = len(inside)
            inside.remove(number)
        assert device == CPU
        return at_once

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [1] * 8


@pytest.mark.usefixtures("_three_gpus")
def test_tasks_go_to_devices_that_are_free() -> None:
    with held_device("cuda:0,2") as first, held_device("cuda:0,2") as second:
        assert (first.index, second.index) == (0, 2)
        with devices._held_if_free(torch.device("cuda", 0)) as is_ours:
            assert not is_ours
    with pytest.raises(ValueError, match="no"), held_device("cuda:0,2"):
        raise ValueError("no")
    with held_device("cuda:0,2") as again:
        assert again.index == 0


def _hold(folder: str, held: multiprocessing.Event, enough: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    with _gpu_of(folder), held_device("cuda"):
        held.set()  # type: ignore[attr-defined]
        enough.wait(60)  # type: ignore[attr-defined]


@contextmanager
def _gpu_of(folder: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="gpu"))
        patch.setattr("tempfile.tempdir", folder)
        yield


def test_a_gpu_is_held_among_processes_and_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held, enough = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(str(tmp_path), held, enough), daemon=True)
    process.start()
    assert held.wait(60)
    with _gpu_of(str(tmp_path)):
        with devices._held_if_free(torch.device("cuda", 0)) as is_ours:
            assert not is_ours
        with held_device("cuda", shared=True) as device:
            assert device.index == 0
        process.kill()
        process.join()
        with held_device("cuda") as device:
            assert device.index == 0


def test_a_gpu_that_cannot_be_held_is_told_at_the_start(tmp_path: Path) -> None:
    with _gpu_of(str(tmp_path / "file")):
        (tmp_path / "file").touch()
        with pytest.raises(ModelError, match=r"cuda:0 is held by a lock on .*file/clip-dissect-.*--share-devices"):
            check_devices("cuda", shared=False)
        check_devices("cuda", shared=True)


def doubled(images: Tensor) -> dict[str, Tensor]:
    return {"doubled": 2 * images.flatten(1)}


def test_a_batch_is_always_filled_and_gives_what_its_images_give() -> None:
    sizes: list[int] = []

    def forward(images: Tensor) -> dict[str, Tensor]:
        sizes.append(len(images))
        return doubled(images)

    images = torch.arange(7 * 3.0).reshape(7, 3, 1, 1)
    found = Batches("network", Placement(CPU)).run(forward, images, 4)
    assert sizes == [4, 4]
    assert torch.equal(found["doubled"], 2 * images.flatten(1))


def test_a_cpu_takes_few_large_images_at_a_time_and_a_gpu_what_it_is_given() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    expected = {48: 64, 112: 32, 224: 8, 336: 3, 1024: 1}
    images = {side: torch.empty(1, 3, side, side, device="meta") for side in expected}
    assert {side: devices.images_per_pass(cpu, of, 64) for side, of in images.items()} == expected
    assert devices.images_per_pass(cpu, images[48], 16) == 16
    assert {devices.images_per_pass(gpu, of, 256) for of in images.values()} == {256}


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
    assert torch.equal(batches.run(forward, images, 16)["doubled"], 2 * images.flatten(1))
    # The two passes begin side by side, and both find out.
    assert [size for size in forward.sizes if size < 16] == [8, 4] + [2] * 10
    assert 1 <= forward.sizes.count(16) <= 2
    # What did not fit once is not tried again.
    batches.run(forward, images[:4], 16)
    assert forward.sizes[-2:] == [2, 2]


def test_an_image_that_alone_does_not_fit_is_told_with_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"One image of shape \[1, 1, 1\] alone .* memory of cpu .*--precision bf16"):
        Batches("network", Placement(CPU)).run(Small(0, FULL[0]), torch.zeros(2, 1, 1, 1), 2)


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^boom$"):
        Batches("network", Placement(CPU)).run(Small(0, RuntimeError("boom")), torch.zeros(2, 1, 1, 1), 2)


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
        Batches("network x", placement).run(lambda x: {"": model(placement.inputs(x))}, torch.zeros(2, 3, 4, 4), 2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_a_copy_and_near_the_network(precision: devices.Precision) -> None:
    torch.manual_seed(0)
    model, images = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)),
        torch.rand(6, 3, 4, 4),
    )
    placement = Placement(CPU, precision)
    half = placement.place(model)
    assert next(half.parameters()).dtype == devices.DTYPES[precision]
    assert next(model.parameters()).dtype == torch.float32
    found = Batches("", placement).run(lambda x: {"": half(placement.inputs(x))}, images, 4)[""]
    assert found.dtype == torch.float32
    assert not torch.equal(found, model(images))
    assert torch.allclose(found, model(images), atol=2e-2)


def test_channels_last_gives_the_same_to_the_fifth_digit() -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 2)), torch.rand(6, 3, 9, 9)
    placement = Placement(CPU, channels_last=True)
    changed, given = placement.place(model), placement.inputs(images)
    weights = [module.weight for module in changed.modules() if isinstance(module, nn.Conv2d)]
    assert given.is_contiguous(memory_format=torch.channels_last)
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert torch.allclose(changed(given), model(images), rtol=1e-5, atol=1e-6)


def test_float32_does_not_depend_on_the_batch_size_beyond_the_fifth_digit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 20))
    images, batches = torch.rand(33, 3, 8, 8), Batches("", Placement(CPU))
    found = [batches.run(lambda x: {"": model(x)}, images, size)[""] for size in (1, 7, 33, 64)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


class Thing:
    """What can be placed."""

    def __init__(self, source: object, placement: Placement) -> None:
        self.source, self.placement = source, placement

    def stands_for(self, source: object, placement: Placement) -> bool:
        return (source, placement) == (self.source, self.placement)


def test_a_model_stays_on_its_device_until_another_takes_its_place() -> None:
    one = placed(Thing, "one", Placement(CPU))
    assert placed(Thing, "one", Placement(CPU)) is one
    assert placed(Thing, "one", Placement(CPU, "bf16")) is not one
    other = placed(Thing, "other", Placement(CPU))
    assert other.source == "other"
    assert [thing for thing in devices._placed.values() if isinstance(thing, Thing)] == [other]


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

    assert torch.equal(Batches("", Placement(CPU)).run(forward, images, 2)["kept"], images.flatten(1))


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
