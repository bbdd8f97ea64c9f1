"""The command `evaluate`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flows.__main__ import cli
from tests.conftest import draw_images


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "labels.csv"
    file.write_text("layer,unit,description,similarity\nfc,0,cat,3\nfc,1,dog,2\nfc,2,owl,1\n")
    (tmp_path / "truth.txt").write_text("CAT\nwolf | Dog\nfox\n")
    return file


def evaluate(table: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["evaluate", str(table), "--truth", str(table.with_name("truth.txt")), *options])


def test_figures_are_printed_and_written(table: Path, tmp_path: Path) -> None:
    done = evaluate(table, "--tau", "1.5", "--out", str(tmp_path / "figures.json"))
    assert done.exit_code == 0, done.output
    printed = " ".join(done.output.split())
    assert "fc: 3 units, 3 with a known concept" in printed
    assert "top-1 accuracy 66.67% 0.00% – 100.00% 3" in printed
    assert "ROC-AUC 1.000" in printed
    assert "interpretable 66.67%" in printed and "τ = 1.5" in printed
    assert "Note: Of a unit, 1 labels are known at most" in printed
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["figures"]["top1_accuracy"]["value"] == pytest.approx(2 / 3)


def test_a_seed_and_a_number_of_resamples_may_be_chosen(table: Path) -> None:
    def interval(*options: str) -> str:
        return next(line for line in evaluate(table, *options).output.splitlines() if "top-1" in line)

    assert interval("--bootstrap", "3", "--seed", "1") == interval("--bootstrap", "3", "--seed", "1")
    assert len({interval("--bootstrap", "3", "--seed", str(seed)) for seed in range(6)}) > 1
    assert "–" not in interval("--bootstrap", "0")


def test_what_is_wrong_is_told_in_a_line_and_nothing_is_written(table: Path, tmp_path: Path) -> None:
    refused = evaluate(table, "--out", str(tmp_path / "figures.xlsx"))
    assert refused.exit_code == 1 and "written as .json or .csv" in refused.output
    unknown = evaluate(table, "--layer", "fcc", "--out", str(tmp_path / "figures.csv"))
    assert unknown.exit_code == 1 and "Nearest: fc" in unknown.output and "Traceback" not in unknown.output
    folder = evaluate(tmp_path)
    assert folder.exit_code == 1 and "holds no run.json" in folder.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "truth.txt"]


def without_truth(out: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["evaluate", out, "--without-truth", "--bootstrap", "20", *options])


def test_a_run_is_judged_without_truth_layer_by_layer(base: dict[str, Any], tmp_path: Path) -> None:
    done = without_truth(base["out"], "--out", str(tmp_path / "figures.json"))
    assert done.exit_code == 0, done.output
    printed = " ".join(done.output.split())
    assert "conv: 4 units, 48 images" in printed and "head: 4 units, 48 images" in printed
    for name in ("correlation, held out", "AUC, in sample", "both halves: same first label", "above the null's 0.95"):
        assert name in printed
    assert "Note: Held out: labelled anew from 24 images drawn at random (seed 0)" in printed
    assert list(json.loads((tmp_path / "figures.json").read_text())["layers"]) == ["conv", "head"]


@pytest.mark.parametrize("given", [["--truth", "imagenet"], ["--tau", "1"], ["--clip", "sample"]], ids=lambda o: o[0])
def test_options_of_one_kind_of_evaluation_are_refused_in_the_other(base: dict[str, Any], given: list[str]) -> None:
    refused = without_truth(base["out"], *given)
    assert refused.exit_code == 2 and f"{given[0]} only works with an evaluation against a truth" in refused.output
    other = CliRunner().invoke(cli, ["evaluate", base["out"], "--labels", "x.csv"])
    assert (
        other.exit_code == 2
        and "--labels only works with an evaluation without truth (--without-truth)" in other.output
    )


def test_runs_tables_and_ratings_are_not_mixed(base: dict[str, Any]) -> None:
    def refusal(*arguments: str) -> str:
        refused = CliRunner().invoke(cli, ["evaluate", *arguments])
        assert refused.exit_code == 2
        return " ".join(refused.output.replace("│", " ").split())

    assert "Give one run or table, not 2; only --ratings takes several files." in refusal(base["out"], "x.csv")
    meant = f"Type: clip-dissect evaluate --ratings x.csv --run {base['out']}"
    assert meant in refusal(base["out"], "--ratings", "x.csv") and meant in refusal("--ratings", "x.csv", base["out"])
    assert "two evaluations: give one of them" in refusal(base["out"], "--without-truth", "--ratings")
    assert "--tau only works with an evaluation against a truth, and this is an evaluation of ratings" in refusal(
        "x.csv", "--ratings", "--tau", "1"
    )
    assert "--run only works with an evaluation of ratings" in refusal(base["out"], "--run", base["out"])


def test_images_of_concepts_are_recorded_into_the_run_s_store(
    finished: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    images = draw_images(tmp_path / "shown", 5)
    options = ("--layer", "head", "--concept-images", str(images), "--labels", f"{finished['out']}/descriptions.csv")
    refused = without_truth(finished["out"], *options)
    assert refused.exit_code == 1 and "type --target tests.tiny_models:colours" in refused.output
    done = without_truth(finished["out"], *options, "--target", "tests.tiny_models:colours")
    assert done.exit_code == 0, done.output
    assert "AUC, concept images" in done.output and "MAD, concept images" in done.output
