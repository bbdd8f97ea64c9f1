"""The studies as commands, and what all of them have in common."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from flows.__main__ import cli
from flows.engine.study_commands import study
from storage.errors import IncompleteError
from tasks.finished import FinishedRun
from tasks.studies import style
from tasks.studies.outcome import Outcome, write
from tests.conftest import REPO
from tests.test_tasks.test_study_cutoff import files_of


@pytest.mark.parametrize("name", sorted(study.commands))
def test_every_study_has_help_and_stands_in_the_readme(name: str) -> None:
    done = CliRunner().invoke(cli, ["study", name, "--help"])
    assert done.exit_code == 0 and "--out" in done.output
    assert re.search(r"^ +(A\.\d|4\.5|5)", done.output, re.MULTILINE), "says which section of the paper it is"
    assert f"`{name}` (" in (REPO / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["similarities", "--similarities", "cos,soft_wpmi", "--layers", "head"], "First labels that agree"),
        (["absent-concepts", "--folds", "2", "--bootstrap", "9"], "without the images of their concepts"),
    ],
    ids=lambda given: given[0],
)
def test_a_study_prints_what_it_found_and_writes_figure_and_data(
    studied: FinishedRun, arguments: list[str], said: str
) -> None:
    name, *options = arguments
    done = CliRunner().invoke(cli, ["study", name, studied.out.url, *options])
    assert done.exit_code == 0, done.output
    assert said in done.output
    folder = Path(studied.out.url) / "studies" / name
    written = set(re.findall(r"Written: (\S+)", done.output.replace("\n", " ").replace("  ", " ")))
    assert {str(path) for path in folder.iterdir() if path.suffix in (".csv", ".svg")} == written
    assert json.loads((folder / "study.json").read_text())["run"] == studied.facts["digest"]


def test_what_is_no_run_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"not the --out folder"):
        FinishedRun.at(str(tmp_path))
    done = CliRunner().invoke(cli, ["study", "cutoff", str(tmp_path)])
    assert done.exit_code == 1 and "not the --out folder" in done.output


def test_a_study_does_not_write_over_the_tables_of_a_run(studied: FinishedRun) -> None:
    labels = Path(studied.out.path("labels.parquet"))
    before = labels.read_bytes()
    asked = ["similarities", studied.out.url, "--layers", "head", "--out", studied.out.url]
    done = CliRunner().invoke(cli, ["study", *asked])
    assert done.exit_code == 1 and "take the place of its tables" in done.output
    assert labels.read_bytes() == before


def figure() -> Figure:
    drawn, [axes] = style.panels()
    axes.plot([1, 2], label="a $\\frac{x$ and 猫")  # what would be half a formula, and no letter of the font
    axes.legend()
    return drawn


def test_a_figure_does_not_depend_on_the_user_s_settings_and_takes_any_label(
    studied: FinishedRun, tmp_path: Path
) -> None:
    found = Outcome([], {"data": pd.DataFrame({"x": [np.nan, 1.0]})}, figure)
    write(studied, "x", found, str(tmp_path / "1"))
    with matplotlib.rc_context({"lines.linewidth": 9, "font.family": "serif", "svg.hashsalt": None}):
        write(studied, "x", found, str(tmp_path / "2"))
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert b"<dc:date>" not in files_of(tmp_path / "1")["x.svg"]
