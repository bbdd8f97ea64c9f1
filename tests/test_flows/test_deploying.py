"""What `clip-dissect deploy` gives to Prefect, and what it says of a run that is silent."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.engine import deploying
from flows.engine.deploying import DeploymentError, heartbeat, lost_run_automations, write_deployments
from flows.engine.environment import BOOT
from flows.engine.silence import told
from tests.conftest import REPO


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Prefect's command is given, in place of a server."""
    seen: dict[str, Any] = {}

    def keep(pool: str, folder: Path, file: str) -> None:
        seen.update(pool=pool, folder=folder, **yaml.safe_load(Path(file).read_text()))

    monkeypatch.setattr(deploying, "_deploy", keep)
    return seen


def directory(given: dict[str, Any]) -> str:
    [step] = given["pull"]
    [arguments] = step.values()
    return str(arguments["directory"])


def test_runs_work_in_the_folder_that_they_are_deployed_from(given: dict[str, Any], tmp_path: Path) -> None:
    assert write_deployments("lab", tmp_path) == REPO
    assert directory(given) == str(tmp_path) and given["folder"] == tmp_path
    dissect = next(one for one in given["deployments"] if one["name"] == "dissect")
    assert dissect["entrypoint"] == "flows.dissect:dissect"
    assert dissect["work_pool"]["job_variables"]["command"].endswith(f" -P {BOOT} prefect.engine")
    assert dissect["work_pool"]["name"] == "{{ $CLIP_DISSECT_POOL }}"


def test_a_checkout_is_deployed_with_its_own_code_wherever_the_command_is_installed(
    given: dict[str, Any], tmp_path: Path
) -> None:
    for file in ("deployments/prefect.yaml", "flows/dissect.py"):
        (tmp_path / file).parent.mkdir()
        shutil.copy(REPO / file, tmp_path / file)
    assert write_deployments("lab", tmp_path) == tmp_path
    assert directory(given) == str(tmp_path)
    assert {one["entrypoint"] for one in given["deployments"]} >= {"flows/dissect.py:dissect"}
    assert not any("job_variables" in one["work_pool"] for one in given["deployments"])


def test_an_installed_package_without_deployments_says_where_to_go(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "ROOT", tmp_path / "site-packages")
    with pytest.raises(
        DeploymentError, match=rf"Neither {tmp_path} nor .*site-packages has deployments/prefect.yaml"
    ):
        write_deployments("lab", tmp_path)


def test_runs_that_are_soon_lost_give_more_signs_of_life(given: dict[str, Any], tmp_path: Path) -> None:
    write_deployments("lab", tmp_path, lost_after=100)
    variables = [one["work_pool"]["job_variables"]["env"] for one in given["deployments"]]
    assert {one["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] for one in variables} == {"30"}
    assert (heartbeat(400), heartbeat(240)) == ("180", "100")
    within = [one["trigger"]["within"] for one in lost_run_automations(REPO, 100)]
    assert within == [100, 0]
    assert "for 100 seconds" in lost_run_automations(REPO, 100)[0]["description"]
    assert [one["trigger"]["within"] for one in lost_run_automations(REPO)] == [400, 0]


def test_a_run_that_is_silent_says_how_long_and_when_it_counts_as_lost() -> None:
    said = told(timedelta(seconds=215), timedelta(seconds=400))
    assert said.startswith("no sign of life for 3 min; counts as lost after 7 min")
    assert told(timedelta(seconds=239), timedelta(seconds=400)) == said  # one line a minute
