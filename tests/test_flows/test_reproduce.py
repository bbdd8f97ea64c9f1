"""Tables of the paper made again, on the embedded sample and on a published network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from flows.__main__ import cli
from flows.reproduce import reproduce
from storage.files import Folder
from tasks.evaluation import paper, reproduction
from tasks.evaluation.paper import TABLES, Cell
from tasks.evaluation.reproduction import Inputs
from tasks.sample.draw import write_probe
from tests.conftest import REAL, needs_real


def test_cells_that_are_one_run_are_run_once_and_the_rest_says_what_it_needs(
    prefect_api: str, one_flow_run: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.dissect import dissect

    runs: list[Any] = []
    monkeypatch.setattr("flows.reproduce.dissect", lambda spec: runs.append(spec) or dissect(spec))
    out = str(tmp_path / "out")
    common = {"store": str(tmp_path / "store"), "device": "cpu", "variant": "paper"}
    inputs = reproduction.of_sample(out, **common, num_images=400, resamples=20)
    wanted = [cell for cell in TABLES["table3"] if cell.concepts == paper.IMAGENET_NAMES]
    cells = [cell for cell in wanted if cell.similarity == "soft_wpmi"]
    nothing = Cell("vgg16", (paper.IMAGENET,), paper.WORDS_20K, "cos", {"sentence_cosine": 0.5})
    table = reproduction.as_table(list(reproduce([*cells, nothing], inputs, out)), inputs)
    assert len(runs) == 1 and runs[0].keep_similarities
    measured = table.set_index(["probe", "figure"])["measured"].unstack("figure")
    accuracy = Folder.at(runs[0].out).read_json("run.json")["accuracy"]
    for figure, of_run in (("top1_accuracy", "top1"), ("top5_accuracy", "top5")):
        assert measured[figure].dropna().tolist() == [accuracy[of_run]] * 4 and accuracy[of_run] > 0.2
    assert measured["mean_rank"].dropna().between(1, 20, inclusive="neither").all()
    assert table["difference"].isna().all()  # it is not what the paper measured
    assert table["note"].iloc[-1] == "needs vgg16"
    assert table.loc[table["figure"] == "top1_accuracy", "published"].tolist() == [0.462, 0.705, 0.950, 0.954]


def test_the_command_prints_the_table_and_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "write_probe", lambda folder, _: write_probe(folder, 400))
    options = ["--sample", "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(cli, ["reproduce", "table2", *options, "--bootstrap", "10"])
    assert done.exit_code == 0, done.output
    printed = " ".join(done.output.split())
    assert re.search(r"top-1 accuracy 58\.05% \d+\.\d\d%", printed) and "needs --sentence-model" in printed
    assert "there is no difference to give" in printed
    written = pd.read_csv(tmp_path / "out" / "table2.csv").set_index("figure")
    assert written.loc["clip_cosine", "published"] == 0.9106
    assert written.loc["clip_cosine", "low"] <= written.loc["clip_cosine", "measured"] < 1


def test_without_images_every_cell_says_what_it_needs(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["reproduce", "table1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "table1.csv")
    assert table["note"].tolist()[0] == "needs --imagenet, --broden-names" and table["measured"].isna().all()


@needs_real
def test_a_published_network_s_labels_are_judged_beside_what_was_published(
    prefect_api: str, one_flow_run: None, tmp_path: Path
) -> None:
    cifar = REAL / "cifar10"
    network = {"target": "tests.real_models:cifar_resnet20", "checkpoint": str(cifar / "resnet20.safetensors")}
    embedded = {"concepts": str(REAL / "concepts.txt"), "concept_embeddings": str(REAL / "concept_embeddings.npy")}
    given: dict[str, dict[str, Any]] = {
        paper.RESNET50: {**network, "layers": "linear", "truth": str(cifar / "class_concepts.txt")},
        paper.CIFAR100: {"probe": (str(cifar / "images"),), "image_embeddings": str(cifar / "image_embeddings.npy")},
        paper.IMAGENET_NAMES: embedded,
    }
    inputs = Inputs(given, {}, {"store": str(tmp_path / "store"), "device": "cpu"}, resamples=200)
    cells = [
        cell for cell in TABLES["table3"] if cell.probe == (paper.CIFAR100,) and "top5_accuracy" in cell.published
    ]
    table = reproduction.as_table(list(reproduce(cells, inputs, str(tmp_path / "out"))), inputs).set_index("figure")
    classes = (cifar / "class_concepts.txt").read_text().splitlines()
    first = "jet plane, car, bird, cat, elk, puppy, frog, headstall, passenger ship, trailer truck"
    labels = first.split(", ")
    right = sum(label == name for label, name in zip(labels, classes, strict=True)) / 10
    assert 0 < right < 1
    assert table.loc["top1_accuracy", "measured"] == right
    assert table.loc["top1_accuracy", "difference"] == pytest.approx(right - 0.462)
    assert table.loc["mean_rank", "measured"] > 1 and 0 <= table.loc["roc_auc", "measured"] <= 1
