"""Bad input gets a clear error, and what was finished stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from flows.__main__ import cli
from tasks.models.errors import ModelError
from tasks.preflight import preflight
from tasks.spec import DissectSpec
from tests.test_tasks.test_images import gif_that_claims
from tests.tiny_models import ColourNet
from tests.web import Web

Clip = Callable[..., Result]


@pytest.fixture
def clip_dissect(prefect_api: str, tiny: dict[str, Any]) -> Clip:
    """Runs `clip-dissect run` with the tiny run's options and those given; None drops one."""

    def go(**options: Any) -> Result:
        arguments = []
        for name, value in (tiny | options).items():
            if value is not None:
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                arguments += [f"--{name.replace('_', '-')}", text]
        return CliRunner().invoke(cli, ["run", *arguments])

    return go


def refused(result: Result, *words: str) -> None:
    assert result.exit_code != 0, result.output
    for word in words:
        assert word in result.output, result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"layers": ("haed",)}, ["no layer 'haed'", "Nearest: head"]),
        ({"target": "torchvision:resnet5"}, ["no torchvision network 'resnet5'", "resnet50"]),
        ({"target": "timm:resnet5o"}, ["no timm network", "resnet50"]),
        ({"target": "nowhere"}, ["no target 'nowhere'", "module:function"]),
        ({"target": "no.such.module:f"}, ["no Python module"]),
        ({"target": "tests.tiny_models:colour"}, ["no function 'colour'", "colours"]),
        ({"target": "tests.tiny_models:not_a_network"}, ["int", "not a torch.nn.Module"]),
        ({"checkpoint": "/no/such.safetensors"}, ["no checkpoint file"]),
        ({"concepts": "comon-20k"}, ["no concept file comon-20k", "common-20k"]),
        ({"device": "cuda:7"}, ["no device cuda:7"]),
        ({"summary": "class_token"}, ["class_token needs tokens", "map"]),
        ({"image_embeddings": None, "clip": "ViT-B-61/openai"}, ["no CLIP model 'ViT-B-61'", "ViT-B-16"]),
        ({"image_embeddings": None, "clip": "ViT-B-16"}, ["needs weights", "openai"]),
        ({"image_embeddings": None, "concept_embeddings": None}, ["Nothing embeds the images", "--clip"]),
        ({"similarity": "cos"}, ["--top-k is no hyperparameter of cos"]),
        ({"prompt": "a photo"}, ["has no {}"]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named_before_any_image_is_read(
    parameters: dict[str, Any], words: list[str], tiny: dict[str, Any]
) -> None:
    with pytest.raises((LookupError, ValueError, ModelError)) as error:
        preflight(DissectSpec(**(tiny | parameters)))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": ("haed",)}, ["Error: There is no layer 'haed'. Nearest: head"]),
        ({"probe": "/no/such/folder"}, ["Error: There is no folder /no/such/folder"]),
        ({"probe": "/no/such/x-{0..1}.tar"}, ["Error: 2 of the 2 tar files", "x-0.tar, x-1.tar"]),
        ({"probe": "/no/such/list.csv"}, ["Error: The list /no/such/list.csv cannot be read: No such file"]),
        ({"probe": "torchvision:CIFAR11/test"}, ["no torchvision data set 'CIFAR11'", "Nearest: CIFAR1"]),
        ({"probe": __file__}, ["is a file of another kind. --probe takes a data set of torchvision", "WebDataset"]),
        ({"similarity": "softwpmi"}, ["soft_wpmi"]),
        ({"top_k": 0}, ["--top-k"]),
        ({"tau": "abc"}, ["Error: --tau 'abc' is neither a number nor null:QUANTILE", "below 1.\n"]),
        ({"tau": ""}, ["Error: --tau is given, and is empty. Name something, or leave it out."]),
        ({"probe": ""}, ["Error: --probe is given, and is empty."]),
        ({"out": ""}, ["Error: --out is given, and is empty."]),
        ({"layers": ""}, ["Error: --layers names nothing: give at least one."]),
        ({"store": "foo://x"}, ["Error: 'foo://x", "is not opened: URLs may begin with", "s3://"]),
        ({"store": "/proc/x"}, ["Error: The folder /proc/x cannot be made", "choose another --store"]),
        ({"store": f"{__file__}/x"}, ["Error: The folder", "cannot be made (Not a directory)"]),
        ({"target": None}, ["--target is needed"]),
    ],
    ids=str,
)
def test_the_command_says_it_without_a_traceback(
    options: dict[str, Any], words: list[str], clip_dissect: Clip
) -> None:
    refused(clip_dissect(**options), *words)


def test_an_empty_folder(clip_dissect: Clip, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(clip_dissect(probe=tmp_path / "empty"), "holds 0 files and no image")


def test_no_image_can_be_decoded(clip_dissect: Clip, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / "bad" / f"{i}.jpg").write_bytes(b"no image")
    refused(clip_dissect(probe=tmp_path / "bad"), "None of the 3 image files can be decoded", "0.jpg")


@pytest.mark.usefixtures("one_flow_run")
def test_bad_images_are_refused_counted_and_listed(clip_dissect: Clip, images: Path, tmp_path: Path) -> None:
    whole = (images / "red" / "01.png").read_bytes()
    (images / "red" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "red" / "empty.jpg").write_bytes(b"")
    (images / "red" / "words.jpg").write_text("hello")
    (images / "red" / "bomb.gif").write_bytes(gif_that_claims(60_000, 60_000, disposal=2))
    result = clip_dissect()
    assert result.exit_code == 0, result.output
    assert "4 files were refused" in result.output
    rejects = pd.read_parquet(tmp_path / "out" / "rejects.parquet")
    assert rejects["path"].tolist() == ["red/bomb.gif", "red/cut.png", "red/empty.jpg", "red/words.jpg"]
    assert rejects["reason"].str.len().gt(5).all()


@pytest.mark.usefixtures("one_flow_run")
def test_rows_of_a_list_that_fail_are_refused_counted_and_listed(
    clip_dissect: Clip, images: Path, tmp_path: Path, web: Web
) -> None:
    good = sorted(str(path.relative_to(images)) for path in images.rglob("*.*"))
    web.files["a.png"] = (images / "red" / "01.png").read_bytes()
    urls = [f"{web.url}/{path}" for path in ("404/9/a.png", "500/9/a.png", "hang/9/a.png")]
    bad = ["nowhere.png", "http://127.0.0.1:9/x.png", *urls, good[0]]
    (images / "list.csv").write_text("\n".join(["path", *good, *bad]) + "\n")
    result = clip_dissect(probe=images / "list.csv")
    assert result.exit_code == 0, result.output
    assert "6 files were refused" in result.output
    rejects = pd.read_parquet(tmp_path / "out" / "rejects.parquet")
    assert rejects["path"].tolist() == bad
    assert [reason.split(":")[0] for reason in rejects["reason"]] == [
        "cannot be read",
        "cannot be fetched in 3 tries",
        "cannot be fetched",
        "cannot be fetched in 3 tries",
        "cannot be fetched in 3 tries",
        "another image of the source has this path",
    ]


@pytest.mark.usefixtures("one_flow_run")
def test_two_images_of_one_stem_are_two_images(clip_dissect: Clip, images: Path, tmp_path: Path) -> None:
    (images / "red" / "00.png").write_bytes((images / "red" / "01.png").read_bytes())
    keys = tmp_path / "image_embeddings.keys.txt"
    keys.write_text(keys.read_text() + "red/00.png\n")
    rows = np.load(tmp_path / "image_embeddings.npy")
    np.save(tmp_path / "image_embeddings.npy", np.concatenate([rows, [[1, 0, 0]]]).astype(np.float32))
    result = clip_dissect(top_images=48)
    assert result.exit_code == 0, result.output
    top = pd.read_parquet(tmp_path / "out" / "top_images.parquet")
    assert {"red/00.jpg", "red/00.png"} <= set(top["image"])


@pytest.mark.usefixtures("one_flow_run")
def test_embeddings_that_do_not_match_the_probe(clip_dissect: Clip, tmp_path: Path) -> None:
    keys = tmp_path / "image_embeddings.keys.txt"
    keys.write_text(keys.read_text().replace("red/", "scarlet/"))
    refused(clip_dissect(), "12 of 48 probe images have no row", "red/00.jpg", "blue/00.jpg")


@pytest.mark.usefixtures("one_flow_run")
def test_concept_embeddings_of_another_list(clip_dissect: Clip, tmp_path: Path) -> None:
    (tmp_path / "concepts.txt").write_text("red\ngreen\nblue\n\n")
    refused(clip_dissect(truth=None), "has 4 rows", "3 concepts")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", ["holds no concept"]), (b"\n \n", ["holds no concept"]), (b"red\nbl\xfce\n", ["line 2", "0xfc", "UTF-8"])],
    ids=["empty", "blank", "latin1"],
)
def test_concept_files_that_cannot_be_read(
    content: bytes, words: list[str], clip_dissect: Clip, tmp_path: Path
) -> None:
    (tmp_path / "concepts.txt").write_bytes(content)
    refused(clip_dissect(truth=None), *words)


def test_truth_of_another_layer(clip_dissect: Clip, tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("red\ngreen\n")
    refused(clip_dissect(truth=tmp_path / "truth.txt"), "2 concepts", "4 neurons")


def test_a_checkpoint_that_does_not_fit(clip_dissect: Clip, tmp_path: Path) -> None:
    weights = ColourNet().state_dict()
    weights["extra"] = weights.pop("head.weight")
    save_file(weights, tmp_path / "other.safetensors")
    refused(clip_dissect(checkpoint=tmp_path / "other.safetensors"), "missing: head.weight", "unexpected: extra")


@pytest.mark.usefixtures("one_flow_run")
def test_k_is_lowered_to_the_number_of_images_and_said_so(clip_dissect: Clip) -> None:
    result = clip_dissect(top_k=None)
    assert result.exit_code == 0, result.output
    assert "K is lowered from 100 to 48" in result.output


@pytest.mark.usefixtures("one_flow_run")
def test_a_store_of_another_version(clip_dissect: Clip, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text('{"format": 99}')
    refused(clip_dissect(), "format 99", "--store")


@pytest.mark.usefixtures("one_flow_run")
def test_stored_arrays_of_another_spec_are_not_taken(clip_dissect: Clip, tmp_path: Path) -> None:
    assert clip_dissect().exit_code == 0
    group = next((tmp_path / "store" / "activations").glob("*.zarr")) / "zarr.json"
    group.write_text(group.read_text().replace('"summary": "mean"', '"summary": "max"'))
    refused(clip_dissect(ranks=3), "was made from something else", "summary: stored 'max', wanted 'mean'")


def test_a_failed_run_goes_on_when_its_cause_is_gone(clip_dissect: Clip, tmp_path: Path) -> None:
    keys = tmp_path / "image_embeddings.keys.txt"
    good = keys.read_text()
    keys.write_text(good.replace("red/", "scarlet/"))
    refused(clip_dissect(), "have no row")
    keys.write_text(good)
    result = clip_dissect()
    assert result.exit_code == 0, result.output
    assert "nothing to do: 48 files done before" in result.output
