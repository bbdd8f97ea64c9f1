"""The README's commands, run as written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import REPO

README = (REPO / "README.md").read_text()
BLOCK = re.compile(r"(?P<mark><!-- not run by the tests: [^>]+ -->\n)?```bash\n(?P<commands>.*?)```", re.DOTALL)


def commands(page: str = README) -> list[str]:
    """Commands of all blocks that are not marked; `make test` is what runs this."""
    blocks = [match["commands"] for match in BLOCK.finditer(page) if not match["mark"]]
    lines = "".join(blocks).replace("\\\n", " ").strip().splitlines()
    return [line for line in lines if line != "make test"]


def test_the_readme_s_commands_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands()[0] == "make dissect"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # What `make dissect` writes goes where this test can look at it anew each time.
        "OUT": str(tmp_path / "sample"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }
    environment.pop("PREFECT_API_URL", None)
    said = ""
    for command in commands():
        here = command.replace("out/sample", str(tmp_path / "sample"))
        if command.startswith("make"):
            here = f"{here} STORE={tmp_path / 'store'}"
        done = subprocess.run(
            here, shell=True, cwd=REPO, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    facts = json.loads((tmp_path / "sample" / "run.json").read_text())
    assert facts["accuracy"]["top1"] >= 0.9
    assert facts["counts"]["images"] == 2400 and facts["counts"]["concepts"] >= 100
    tops = ", ".join(f"{facts['accuracy'][f'top{top}']:.1%} top-{top}" for top in (1, 5))
    assert f"Accuracy of head on 20 known neurons: {tops}" in said
    assert f"Accuracy of head on 20 known neurons: {tops}" in README

    [program] = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "sample-dataset" in block
    ]
    exec(program.replace("out/sample", str(tmp_path / "sample")), {})
    assert "circle" in capsys.readouterr().out

    labels = pd.read_parquet(tmp_path / "sample" / "labels.parquet")
    assert labels.groupby("layer")["neuron"].nunique().to_dict() == {
        layer: facts["layers"][layer]["neurons"] for layer in facts["layers"]
    }


def test_every_path_and_file_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (REPO / path).exists(), path
    from tasks.published import DETAILS, FILES, RUN

    for name in (*FILES, *DETAILS, RUN):
        assert f"`{name}`" in README


def test_every_option_that_the_readme_names_exists() -> None:
    from flows.engine.evaluate_commands import evaluate, reproduce
    from flows.engine.study_commands import study
    from tasks.spec import DissectSpec

    known = {f"--{name.replace('_', '-')}" for name in DissectSpec.model_fields}
    known |= {"--spec", "--help", "--layer", "--concept", "--sort", "--limit", "--repair", "--remove", "--overwrite"}
    known |= {
        option
        for command in (evaluate, reproduce, *study.commands.values())
        for parameter in command.params
        for option in parameter.opts
    }
    mine = [line for line in README.splitlines() if "prefect " not in line]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", "\n".join(mine))) <= known
