"""The paper's tables: every cell a run that can be made, and what is not given told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from storage.files import Folder
from tasks.evaluation import paper, reproduction
from tasks.evaluation.paper import TABLES, Cell
from tasks.evaluation.reproduction import Inputs, Measured, measure
from tasks.publish import plan_publication, publish
from tests.conftest import REPO
from tests.test_tasks.conftest import Bench, labelled

#: The page on the paper stands beside the repository, where it is there at all.
PAGE = REPO.parent / "shared" / "PAPER.md"
NOTHING: dict[str, Any] = dict.fromkeys(
    ("imagenet", "broden", "cifar100", "broden_names", "resnet50_checkpoint", "places_checkpoint", "places_names")
)
CHOSEN: dict[str, Any] = {"sentence_model": None, "resamples": 10, "seed": 0, "clip": "ViT-B-16/openai", "store": "s"}


def published(table: str, figure: str, **wanted: Any) -> list[float]:
    cells = [one for one in TABLES[table] if all(getattr(one, name) == value for name, value in wanted.items())]
    return [cell.published[figure] for cell in cells if figure in cell.published]


def test_the_numbers_are_those_of_the_paper() -> None:
    by_probe = ("cifar100-train", "broden", "imagenet-val", "imagenet-val+broden")
    assert [len(TABLES[name]) for name in ("table1", "table2", "table3")] == [8, 1, 32]
    assert published("table3", "sentence_cosine", similarity="wpmi") == [0.3460, 0.3878, 0.5302, 0.5267]
    assert published("table3", "top1_accuracy", similarity="soft_wpmi") == [0.462, 0.705, 0.950, 0.954]
    cells = [cell for cell in TABLES["table3"] if cell.similarity == "cos" and cell.concepts == paper.WORDS_20K]
    assert tuple("+".join(cell.probe) for cell in cells) == by_probe
    # Tables 1 and 3 share cells.
    of_1 = {(cell.probe, cell.concepts): cell.published["sentence_cosine"] for cell in TABLES["table1"]}
    of_3 = {cell.probe: cell.published for cell in TABLES["table3"] if cell.concepts == paper.WORDS_20K}
    shared = [(probe, of_1[probe, paper.WORDS_20K]) for probe in of_3]
    assert shared == [(probe, of_3[probe]["sentence_cosine"]) for probe in of_3]


@pytest.mark.skipif(not PAGE.is_file(), reason=f"the page on the paper is not at {PAGE}")
def test_every_number_stands_on_the_page_on_the_paper() -> None:
    text = PAGE.read_text()
    on_page = {float(number) for number in re.findall(r"(?<![\d.])\d*\.?\d+", text)}
    for cells in TABLES.values():
        for cell in cells:
            for figure, value in cell.published.items():
                shown = value * 100 if "accuracy" in figure else value
                assert any(abs(shown - number) < 1e-9 for number in on_page), (cell.name, figure, value)


def test_each_cell_says_which_options_it_needs() -> None:
    inputs = reproduction.of_paper(**NOTHING, **CHOSEN)
    joined = Cell(paper.RESNET50, (paper.IMAGENET, paper.BRODEN), paper.WORDS_20K, "cos", {})
    assert inputs.missing(joined) == ["--imagenet", "--broden"]
    [places] = TABLES["table2"]
    assert inputs.missing(places) == ["--places-checkpoint and --places-names", "--broden", "--broden-names"]
    table = reproduction.as_table([Measured(joined, None, "needs --imagenet")], inputs)
    assert table.empty
    row = reproduction.as_table([Measured(places, None, "needs --broden")], inputs).iloc[0]
    assert (row["figure"], row["published"], row["note"]) == ("top1_accuracy", 0.5805, "needs --broden")
    assert row[["measured", "difference"]].isna().all()


def test_every_cell_is_a_run_with_the_paper_s_settings() -> None:
    given = {**NOTHING, "imagenet": "val", "broden": "broden", "cifar100": "torchvision:CIFAR100/train"}
    given |= {"broden_names": "names.txt", "places_checkpoint": "places.pth", "places_names": "places.txt"}
    inputs = reproduction.of_paper(**given, **CHOSEN)
    specs = [inputs.spec(cell, "out") for cells in TABLES.values() for cell in cells]
    assert all(not inputs.missing(cell) for cells in TABLES.values() for cell in cells)
    joined = [spec for spec in specs if spec.probe == ("val", "broden")]
    assert len(joined) == 9 and all(spec.layers == ("fc",) and spec.truth == "imagenet" for spec in joined)
    assert [spec.concepts for spec in specs[:5]] == ["names.txt", "common-3k", "common-10k", "common-20k", "imagenet"]
    places = specs[8]
    assert (places.target, places.checkpoint, places.truth) == ("torchvision:resnet18", "places.pth", "places.txt")
    assert not any(spec.hyperparameters() for spec in specs)
    # A run per folder, and a folder per run.
    assert len({spec.out for spec in specs}) == len({spec.model_copy(update={"out": None}) for spec in specs})


def test_what_is_measured_stands_beside_what_was_published(bench: Bench, tmp_path: Path) -> None:
    spec = bench.spec(out=str(tmp_path / "out"), truth=str(bench.concepts))
    publish.fn(plan_publication(labelled(spec), spec))
    cell = Cell(paper.RESNET50, (paper.IMAGENET,), "x", "cos", {"top1_accuracy": 0.75, "sentence_cosine": 0.5})
    for is_the_paper_s in (True, False):
        inputs = Inputs({}, {}, is_the_paper_s=is_the_paper_s, resamples=10)
        table = reproduction.as_table([measure(inputs, cell, Folder.at(str(tmp_path / "out")))], inputs)
        top1, cosine = table.to_dict("records")
        assert (top1["published"], top1["measured"], top1["low"], top1["high"]) == (0.75, 1.0, 1.0, 1.0)
        assert top1["difference"] == 0.25 if is_the_paper_s else top1["difference"] != top1["difference"]
        assert cosine["note"] == "needs --sentence-model" and cosine["measured"] != cosine["measured"]
    path = reproduction.write(table, str(tmp_path / "tables"), "table3")
    assert (
        Path(path).read_text().splitlines()[0]
        == "network,probe,concepts,similarity,figure,published,measured,low,high,difference,note"
    )
