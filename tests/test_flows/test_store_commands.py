"""Commands that look after a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flows.__main__ import cli


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_a_run_leaves_a_store_in_which_nothing_is_wrong(base: dict[str, Any]) -> None:
    done = invoke("verify", base["store"], "--jobs", 1)
    assert done.exit_code == 0 and done.output.count("\n") == 1
    assert "nothing is wrong" in done.output and "unfinished" not in done.output


@pytest.mark.usefixtures("one_flow_run")
def test_what_is_torn_is_told_repaired_and_made_again(
    finished: dict[str, Any], run: Callable[..., dict[str, int]], tmp_path: Path
) -> None:
    [table] = Path(finished["store"]).glob("labels/*/head/labels.parquet")
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    notes = Path(finished["store"]) / "notes.txt"
    notes.write_text("mine")
    path = f"labels/{table.parts[-3]}/head/labels.parquet"
    said = f"torn: {path} has {len(whole) - 1:,} bytes, and {len(whole):,} were written\n"
    told = invoke("verify", finished["store"])
    assert told.exit_code == 1 and said in told.output and "1 torn, 1 foreign" in told.output
    assert "foreign: notes.txt (4 bytes)" in told.output and "remove" in told.output
    assert table.is_file()
    repaired = invoke("verify", finished["store"], "--repair")
    assert repaired.exit_code == 1 and f"Removed {path}, which was torn.\n" in repaired.output
    assert not table.exists() and not (table.parent / "done.json").exists() and notes.is_file()
    notes.unlink()
    assert run(**finished)["label"] > 0
    assert table.read_bytes() == whole and invoke("verify", finished["store"]).exit_code == 0


def test_what_no_run_refers_to_is_listed_and_removed_on_request(finished: dict[str, Any]) -> None:
    store, out = finished["store"], finished["out"]
    nothing = "1 run. 0 things of 0 bytes can be removed by --remove.\n"
    assert invoke("gc", store, "--older-than", "0s").output == nothing
    shutil.rmtree(Path(store) / "runs")
    named = invoke("gc", store, "--out", out, "--older-than", "0s")
    assert named.exit_code == 0 and named.output == nothing
    shutil.rmtree(out)
    refused = invoke("gc", store, "--older-than", "0s", "--remove")
    assert refused.exit_code == 1 and "Give --out of each run" in refused.output
    listed = invoke("gc", store, "--older-than", "0s").output
    assert "bytes  probe set " in listed and listed.splitlines()[-1].startswith("0 runs. ")
    assert Path(store, "store.json").is_file() and list(Path(store).glob("probes/*/manifest.json"))
    young = invoke("gc", store)
    assert " 0 things of 0 bytes can be removed by --remove; " in young.output


@pytest.mark.parametrize("older", ["7", "d7", "1y", "-1d"])
def test_an_age_has_a_unit(tmp_path: Path, older: str) -> None:
    refused = invoke("gc", tmp_path, f"--older-than={older}")
    assert refused.exit_code == 2 and "no duration such as 7d" in refused.output


def test_runs_are_listed_with_what_differs(finished: dict[str, Any]) -> None:
    from dataclasses import replace

    from storage.layout import Store
    from storage.runs import record, recorded

    store = Store.existing(finished["store"])
    [one] = recorded(store)
    alone = invoke("runs", finished["store"]).output
    assert finished["out"] in alone and "tests.tiny_models:colours" in alone and "top_k" not in alone
    record(store, replace(one, out="/elsewhere", url="", spec=one.spec | {"top_k": 7}))
    both = invoke("runs", finished["store"]).output
    header = next(line for line in both.splitlines() if "when" in line)
    assert header.split()[-2:] == ["neurons", "top_k"]
    [row] = [line for line in both.splitlines() if "/elsewhere" in line]
    assert "not there" in row and row.split()[-1] == "7"


@pytest.mark.parametrize("command", ["verify", "gc", "runs"])
def test_what_is_no_store_is_said_to_be_none(tmp_path: Path, command: str) -> None:
    refused = invoke(command, tmp_path / "nothing")
    assert refused.exit_code == 1 and "There is no store" in refused.output
    assert not (tmp_path / "nothing").exists()
