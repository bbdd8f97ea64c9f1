"""The command line: help, stages, what is shown, and a run that is interrupted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from flows.__main__ import cli
from tasks.spec import DissectSpec
from tests.conftest import REPO, take_ctrl_c


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def options(parameters: dict[str, Any], *names: str) -> list[str]:
    given = []
    for name in names:
        value = parameters[name]
        given += [f"--{name.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return given


@pytest.mark.parametrize(
    "command", [[], *([name] for name in sorted(cli.commands))], ids=lambda c: "-".join(c) or "-"
)
def test_every_command_has_help(command: list[str]) -> None:
    text = invoke(*command, "--help")
    assert re.search(r"Usage: \S+", text)
    assert len(text.splitlines()) > 5


def test_every_parameter_of_a_spec_is_an_option_with_help() -> None:
    text = re.sub(r"\s+", " ", invoke("run", "--help"))
    for name, field in DissectSpec.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description and field.description.split()[0] in text


def imported(program: str) -> set[str]:
    """What a program imports of what takes seconds."""
    program += "; import sys; print(*{'torch', 'prefect', 'zarr', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True, capture_output=True)
    return set(done.stdout.decode().splitlines()[-1].split())


def test_help_imports_nothing_that_takes_seconds() -> None:
    assert imported("import flows.__main__") == set()


def test_commands_that_read_tables_import_pandas_alone(base: dict[str, Any]) -> None:
    out, store = base["out"], base["store"]
    commands = [["show", out], ["compare", out, out], ["runs", store], ["gc", store], ["verify", store]]
    program = (
        "from click.testing import CliRunner; from flows.__main__ import cli; "
        f"assert not any(CliRunner().invoke(cli, command).exit_code for command in {commands})"
    )
    assert imported(program) == {"pandas"}


def test_the_stages_one_by_one_give_what_run_gives(base: dict[str, Any], tmp_path: Path) -> None:
    own = base | {"store": str(tmp_path / "store")}
    probe = options(own, "probe", "store")
    target = options(own, "target", "layers")
    embedding = options(own, "image_embeddings", "concepts", "concept_embeddings")
    assert "48 images, 1 shards, 0 files refused" in invoke("shard", *probe)
    embedded = invoke("embed", *probe, *embedding)
    recorded = invoke("record", *probe, *target)
    labelled = invoke("label", *probe, *target, *embedding, *options(own, "top_k"))
    assert str(tmp_path / "store" / "embeddings") in embedded
    assert str(tmp_path / "store" / "activations") in recorded
    folder = Path(re.search(r"head: (\S+)", labelled)[1])  # type: ignore[index]
    relative = folder.relative_to(tmp_path / "store")
    for table in ("labels.parquet", "top_images.parquet"):
        assert (folder / table).read_bytes() == (Path(base["store"]) / relative / table).read_bytes()


def test_a_stage_says_which_stage_comes_first(base: dict[str, Any], tmp_path: Path) -> None:
    own = base | {"store": str(tmp_path / "store")}
    arguments = ["record", *options(own, "probe", "store", "target", "layers")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1 and "Run `clip-dissect shard`" in result.output


def test_probe_is_given_once_for_each_source(base: dict[str, Any], tmp_path: Path) -> None:
    images, store = Path(base["probe"]), str(tmp_path / "store")
    sources = [str(images / name) for name in ("red", "blue")]
    given = [part for source in sources for part in ("--probe", source)]
    text = invoke("shard", *given, "--store", store, "--limit", "20", "--sample", "16", "--resize", "10")
    assert "16 images, 1 shards, 0 files refused" in text
    index = pd.read_parquet(next(Path(store).glob("probes/*/index.parquet")))
    assert index["source"].unique().tolist() == ["red", "blue"] and set(index["height"]) == {10}
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump({"probe": sources, "limit": 20, "sample": 16, "resize": 10}))
    again = invoke("shard", "--spec", str(file), "--store", store)
    assert again.splitlines()[-1] == text.splitlines()[-1]
    file.write_text(f"probe: {images}\n")
    assert "48 images" in invoke("shard", "--spec", str(file), "--store", store)


def test_layers_lists_names_types_and_shapes() -> None:
    text = invoke("layers", "tests.tiny_models:colours")
    assert re.search(r"conv +Conv2d +4 × 8 × 8 +map +4", text)
    assert re.search(r"head +Linear +4 +vector +4", text)
    assert "relu" not in invoke("layers", "tests.tiny_models:colours", "--match", "h*")


def test_compare_puts_runs_side_by_side_and_writes_tables(base: dict[str, Any], tmp_path: Path) -> None:
    text = invoke("compare", base["out"], base["out"], "--layers", "head=conv", "--out", str(tmp_path / "tables"))
    assert "The parameters are the same." in text and "head → conv" in text
    for name in ("changed", "matches", "concepts"):
        assert f"Table: {tmp_path / 'tables' / name}.csv" in text
    assert len(pd.read_csv(tmp_path / "tables" / "matches.csv")) == 4
    alone = CliRunner().invoke(cli, ["compare", base["out"]])
    assert alone.exit_code == 2 and "two runs or more" in alone.output
    nowhere = CliRunner().invoke(cli, ["compare", base["out"], str(tmp_path)])
    assert nowhere.exit_code == 1 and "holds no run.json" in nowhere.output


def test_show_filters_by_layer_concept_and_neuron(base: dict[str, Any]) -> None:
    out = base["out"]
    assert "(dead)" in invoke("show", out)
    head = invoke("show", out, "--layer", "head", "--sort", "similarity")
    assert "conv" not in head and "grey" in head
    assert "0 neurons" in invoke("show", out, "--concept", "no such concept")
    assert "similarity" not in invoke(
        "show", out, "--concept", "no such concept"
    )  # a table without a row has no head
    one = invoke("show", out, "--layer", "head", "--neuron", "2")
    assert "head: 1 neuron\n" in one.replace(" \n", "\n")
    assert re.search(r"2 +blue", one) and not re.search(r"1 +green", one)


def test_report_is_made_anew_from_the_tables(base: dict[str, Any], tmp_path: Path) -> None:
    out = shutil.copytree(base["out"], tmp_path / "out")
    report = out / "report/index.html"
    before = report.read_bytes()
    report.unlink()
    invoke("report", str(out))
    assert report.read_bytes() == before


def test_a_finished_run_is_published_for_others(base: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "README.md").write_text("theirs")
    arguments = ["publish", base["out"], str(tmp_path / "to")]
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code == 1 and "holds README.md, which no run has published" in refused.output
    assert invoke(*arguments, "--overwrite") == f"Data set: {tmp_path / 'to'}\n"
    assert invoke(*arguments) == f"Data set: {tmp_path / 'to'} (it was there)\n"


def test_a_spec_file_and_options_that_win(finished: dict[str, Any], tmp_path: Path) -> None:
    own = options(finished, "store", "out", "target")
    text = invoke("run", "--spec", f"{finished['out']}/spec.yaml", *own, "--ranks", "2")
    assert "nothing to do: 48 images" in text and "8 neurons" in text
    (tmp_path / "bad.yaml").write_text("probe: x\nlayer: y\n")
    result = CliRunner().invoke(cli, ["run", "--spec", str(tmp_path / "bad.yaml")])
    assert result.exit_code == 2
    assert "no parameter 'layer'" in result.output and "--target is needed" in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a thing of POSIX")
def test_a_run_that_is_interrupted_says_so_and_leaves_nothing_behind(
    base: dict[str, Any], prefect_home: Path, tmp_path: Path
) -> None:
    command = [shutil.which("clip-dissect", path=str(Path(sys.executable).parent)) or "clip-dissect", "run"]
    own = base | {"store": str(tmp_path / "store"), "out": str(tmp_path / "out")}
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    run = subprocess.Popen(
        command + options(own, *(name for name in own)),
        cwd=REPO,
        env=environment | {"PREFECT_HOME": str(prefect_home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=take_ctrl_c,
    )
    assert run.stdout is not None
    said = ""
    for line in run.stdout:
        said += line
        if line.startswith("shard"):
            run.send_signal(signal.SIGINT)
    assert run.wait(timeout=60) == 130
    run.stdout.close()
    assert "Stopped. What was finished is kept" in said and "Traceback" not in said
    assert not list(tmp_path.rglob("*.partial"))
