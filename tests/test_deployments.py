"""What operators deploy: files that can be read, deployments that fit their flows, commands that work."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from rich.text import Text

from tests.conftest import REPO, draw_images
from tests.test_readme import BLOCK, README, commands

FOLDER = REPO / "deployments"
PAGE = (FOLDER / "README.md").read_text()
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
POOL = json.loads((FOLDER / "kubernetes-pool.json").read_text())
DEPLOYMENTS: list[dict[str, Any]] = [
    deployment
    for file in ("prefect.yaml", "docker.yaml", "kubernetes.yaml")
    for deployment in yaml.safe_load((FOLDER / file).read_text())["deployments"]
]
FLOWS = {"dissect", "dissect_new", "shard_probe", "observe_probe", "label_neurons"}
named = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in DEPLOYMENTS if one["name"].endswith(f"-{kind}")]


@named
def test_a_deployment_fits_its_flow(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.chdir(REPO)
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert flow.fn.__name__ == re.split(r"[.:]", deployment["entrypoint"])[-1]
    assert flow.description
    assert "clip-dissect" in deployment["tags"]
    flow.validate_parameters(deployment["parameters"])
    # `prefect deployment inspect` prints descriptions as rich's markup, and stumbles over a [/WORD].
    schema = json.dumps(flow.parameters.model_dump())
    assert Text.from_markup(schema).plain == schema


def test_every_flow_is_deployed_to_every_kind_of_pool_under_a_name_of_its_own() -> None:
    assert len({one["name"] for one in DEPLOYMENTS}) == len(DEPLOYMENTS) == 3 * len(FLOWS)
    for kind in ("docker", "kubernetes"):
        assert {one["entrypoint"].rpartition(".")[2] for one in of_kind(kind)} == FLOWS
    assert all(not schedule["active"] for one in DEPLOYMENTS for schedule in one.get("schedules", ()))


@pytest.mark.parametrize("file", ["docker.yaml", "kubernetes.yaml"])
def test_images_pull_nothing_and_say_so(file: str) -> None:
    # Without `pull`, the folder that is deployed from would be looked for in the container.
    assert yaml.safe_load((FOLDER / file).read_text())["pull"] == []


def job(variables: dict[str, Any]) -> Any:
    """The Kubernetes job of a run, by the pool's template and Prefect's own way to fill it."""
    from prefect.utilities.templating import apply_values

    defaults = {name: one["default"] for name, one in POOL["variables"]["properties"].items() if "default" in one}
    return apply_values(POOL["job_configuration"]["job_manifest"], defaults | variables)


def test_kubernetes_pods_get_the_gpus_and_volumes_that_deployments_ask_for() -> None:
    for deployment in of_kind("kubernetes"):
        variables = deployment["work_pool"]["job_variables"]
        assert set(variables) <= set(POOL["variables"]["properties"])
        pod = job(variables)["spec"]["template"]["spec"]
        container = pod["containers"][0]
        needs_gpu = not deployment["name"].startswith(("shard", "label"))
        assert container["resources"]["limits"]["nvidia.com/gpu"] == int(needs_gpu)
        assert ("nodeSelector" in pod) == needs_gpu
        assert [volume["name"] for volume in pod["volumes"]] == ["shared-memory", "data"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/dev/shm", "/data"}
        assert "{{" not in json.dumps(container["resources"])


def test_a_pod_without_a_claim_takes_its_keys_from_a_secret() -> None:
    pod = job({"env_from": [{"secretRef": {"name": "object-store"}}]})["spec"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["shared-memory"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "object-store"}}]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_every_variable_of_the_pool_is_used_and_every_place_has_one() -> None:
    places = set(re.findall(r"{{ (\w+) }}", json.dumps(POOL["job_configuration"])))
    assert places == set(POOL["variables"]["properties"])


def test_docker_takes_what_deployments_give_it() -> None:
    from docker.types import HostConfig

    for deployment in of_kind("docker"):
        given = deployment["work_pool"]["job_variables"].get("container_create_kwargs", {})
        assert HostConfig(version="1.44", **given).get("DeviceRequests", [{"Count": -1}])[0]["Count"] == -1
        assert bool(given) == (not deployment["name"].startswith(("shard", "label")))


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments."""
    lines = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_the_image_is_of_what_is_here_and_of_the_tested_versions() -> None:
    assert {name for name, _ in instructions()} <= {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV"}
    assert [name for name, _ in instructions()][:2] == ["ARG", "FROM"]
    assert ("USER", "1000") in instructions() and POOL["job_configuration"]["job_manifest"]["spec"]["template"][
        "spec"
    ]["securityContext"]["runAsUser"] == 1000
    assert any("-c constraints.txt" in rest for name, rest in instructions() if name == "RUN")
    assert not re.search(r"https?://|\w\.\w+/", "".join(rest for _, rest in instructions()))  # no registry's host
    for command in (rest for name, rest in instructions() if name == "RUN"):
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_image_s_files_are_all_that_the_package_is_built_from(tmp_path: Path) -> None:
    for _, rest in [one for one in instructions() if one[0] == "COPY"]:
        *sources, place = rest.split()
        for source in sources:
            if (REPO / source).is_dir():
                shutil.copytree(REPO / source, tmp_path / "image" / place)
            else:
                (tmp_path / "image").mkdir(exist_ok=True)
                shutil.copy(REPO / source, tmp_path / "image")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, tmp_path / "image"]
    done = subprocess.run([*map(str, build)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.whl"))


def test_shell_snippets_can_be_parsed() -> None:
    blocks = [match["commands"] for page in (README, PAGE) for match in BLOCK.finditer(page)]
    assert len(blocks) == (README + PAGE).count("```bash")
    for block in blocks:
        subprocess.run(["bash", "-n", "-c", block], check=True)


def test_every_file_that_the_page_names_is_there_and_the_other_way_round() -> None:
    for path in re.findall(r"\]\((?!http)([^)]+)\)", PAGE):
        assert (FOLDER / path).exists(), path
    files = {file.name for file in FOLDER.iterdir() if file.is_file() and file.name != "README.md"}
    assert {name for name in files if f"`{name}`" in PAGE} == files


def test_the_space_that_the_page_foretells_is_what_the_code_takes() -> None:
    from storage.completion import MAX_ROWS, MAX_TASKS, groups
    from tasks.summaries import bytes_per_neuron

    per_group, million = bytes_per_neuron(1_000_000), len(groups(1_000_000))
    assert f"{per_group} · N for each shard group of at most {MAX_ROWS:,} images" in PAGE
    assert f"{MAX_ROWS * MAX_TASKS:,} images there are at most {MAX_TASKS} shard groups" in " ".join(PAGE.split())
    assert f"{2048 * per_group * million / 1e6:.0f} MB with `top`" in PAGE
    assert f"{4 * 2048 / 1e3:.1f} GB" in PAGE and f"{2 * 2048 / 1e3:.1f} GB" in PAGE


def test_runs_that_are_well_are_not_taken_for_lost_and_those_that_are_lost_are_all_found() -> None:
    from prefect.settings.models.flows import FlowsSettings

    lost, goes_on = yaml.safe_load((FOLDER / "lost-runs.yaml").read_text())["automations"]
    seconds_between_signs = FlowsSettings.model_fields["heartbeat_frequency"].default
    assert lost["trigger"]["within"] > 2 * seconds_between_signs
    assert (
        f"{lost['trigger']['within']} seconds" in lost["description"] and f"{lost['trigger']['within']} sec" in PAGE
    )
    names = set(lost["trigger"]["match_related"]["prefect.resource.name"])
    assert names == {flow.replace("_", "-") for flow in FLOWS}
    pattern = goes_on["trigger"]["match"]["prefect.state-message"]
    assert fnmatch.fnmatchcase(lost["actions"][0]["message"], pattern)


def test_the_page_s_commands_work_and_a_worker_runs_what_they_deploy(prefect_api: str, tmp_path: Path) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    block = CustomWebhookNotificationBlock(name="failed", url="http://127.0.0.1:9", json_data={"text": "{{subject}}"})
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_API_URL": prefect_api,
        "BLOCK_ID": str(asyncio.run(block.asave("failed"))),  # type: ignore[no-untyped-call]
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }

    def do(command: str) -> str:
        # What a command writes beside the project's files goes where this test can throw it away.
        here = re.sub(r"(?<!/)automations\.yaml", str(tmp_path / "automations.yaml"), command)
        done = subprocess.run(
            here, shell=True, cwd=REPO, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def found(what: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = httpx.post(f"{prefect_api}/{what}/filter", json={}, timeout=30).json()
        return answer

    for command in commands(PAGE):
        do(command)
    assert {one["name"] for one in found("deployments")} >= {one["name"] for one in DEPLOYMENTS}
    names = sorted(one["name"] for one in found("automations"))
    assert names == ["clip-dissect has failed", "clip-dissect run goes on", "clip-dissect run is lost"]

    spec = {"probe": [str(draw_images(tmp_path / "images"))], "store": str(tmp_path / "store")}
    do(f"prefect deployment run shard-probe/shard --param 'spec={json.dumps(spec)}'")
    do("prefect worker start --pool gpu --run-once")
    deployed = [one for one in found("flow_runs") if one["deployment_id"]]
    assert [(one["state_name"], set(one["tags"])) for one in deployed] == [("Completed", {"clip-dissect", "stage"})]
    assert list((tmp_path / "store" / "probes").glob("*/manifest.json"))
