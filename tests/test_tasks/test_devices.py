"""Devices: chosen by name, one task at a time on each, batches that fit."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tasks.models import devices
from tasks.models.batches import Batches
from tasks.models.devices import Placement, check_devices, choose_devices, held_device, placed
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


def test_a_cpu_takes_few_large_images_at_a_time_and_a_gpu_what_it_is_given() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    expected = {48: 64, 112: 32, 224: 8, 336: 3, 1024: 1}
    images = {side: torch.empty(1, 3, side, side, device="meta") for side in expected}
    assert {side: devices.images_per_pass(cpu, of, 64) for side, of in images.items()} == expected
    assert devices.images_per_pass(cpu, images[48], 16) == 16
    assert {devices.images_per_pass(gpu, of, 256) for of in images.values()} == {256}


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
    found = Batches("", placement).start(lambda x: {"": half(placement.inputs(x))}, images, 4)()[""]
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
