"""Data sets by name: a fixed list, pixels without loss, a clear word where a set cannot be had."""

from __future__ import annotations

import hashlib
import inspect
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from storage.errors import SourceError
from storage.shards import read_images
from tasks import torchvision_sets
from tasks.shard import plan_shards
from tasks.spec import ShardSpec
from tasks.torchvision_sets import ALL_KINDS, DATA_SETS
from tests.test_tasks.conftest import shard

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
CLASSES = ["apple", "bear"]


@pytest.fixture(autouse=True)
def _nothing_open() -> None:
    torchvision_sets._opened.cache_clear()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """CIFAR-10 in its own layout, of two test images and four for training; its sums are those of these files."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    contents: dict[str, dict[str, Any]] = {
        "data_batch_1": {"data": PIXELS[:4].reshape(4, -1), "labels": [0, 1, 1, 0]},
        "test_batch": {"data": PIXELS[4:].reshape(2, -1), "labels": [1, 0]},
        "batches.meta": {"label_names": CLASSES},
    }
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return str(tmp_path / "data")


def spec(tmp_path: Path, text: str, root: str) -> ShardSpec:
    return ShardSpec(probe=text, data_root=root, store=str(tmp_path / "store"))


@pytest.mark.parametrize(("split", "rows"), [("train", range(4)), ("test", range(4, 6))])
def test_pixels_are_kept_and_labels_are_names(split: str, rows: range, root: str, tmp_path: Path) -> None:
    probe = shard(spec(tmp_path, f"torchvision:CIFAR10/{split}", root))
    index = probe.index()
    assert (set(index["encoding"]), set(index["source"])) == ({"png"}, {f"CIFAR10-{split}"})
    assert index["label"].tolist() == [CLASSES[i] for i in ([0, 1, 1, 0, 1, 0][rows.start : rows.stop])]
    assert index["path"].tolist() == [f"{i:06d}.png" for i in range(len(rows))]
    for (_, data), row in zip(read_images(probe.folder, index), rows, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), PIXELS[row].transpose(1, 2, 0))


def test_a_set_that_cannot_be_fetched_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(SourceError, match=r"CIFAR10 is not in .*empty, .*failed \(no network\).*--data-root"):
        plan_shards(spec(tmp_path, "torchvision:CIFAR10/train", str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torchvision:CIFAR1O0/test", "no torchvision data set 'CIFAR1O0'.*Nearest: CIFAR10, CIFAR100"),
        ("torchvision:os/train", "no torchvision data set 'os'.*All: CIFAR10, "),
        ("torchvision:FakeData/train", "no torchvision data set 'FakeData'"),
        (
            "torchvision:CIFAR10",
            "names no split of CIFAR10. Give torchvision:CIFAR10/train, torchvision:CIFAR10/test",
        ),
        ("torchvision:DTD/valid", "names no split of DTD. Give .*torchvision:DTD/val"),
    ],
)
def test_other_names_are_answered_with_the_nearest(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        plan_shards(spec(tmp_path, text, str(tmp_path)))


def test_what_is_no_source_lists_data_sets_among_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        plan_shards(spec(tmp_path, str(tmp_path / "nowhere"), str(tmp_path)))
    assert all(kind.form in str(error.value) for kind in ALL_KINDS)


@pytest.mark.parametrize("name", DATA_SETS)
def test_torchvision_has_every_set_and_takes_these_parameters(name: str) -> None:
    parameters = inspect.signature(getattr(datasets, name)).parameters
    for arguments in DATA_SETS[name].values():
        assert {"root", "download", *arguments} <= set(parameters)
