"""The house itself: who may import whom, and what is shipped."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPO

BIN = Path(sys.executable).parent


def test_imports_run_down_only() -> None:
    done = subprocess.run([BIN / "lint-imports"], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=str)
def test_the_code_is_clean(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_method_is_usable_without_prefect_and_zarr() -> None:
    program = (
        "import sys; from tasks.dissection.similarity import soft_wpmi; import tasks.report.page; "
        "sys.exit(bool({'prefect', 'zarr', 'storage'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPO, check=False).returncode == 0


def test_the_wheel_holds_all_packages_and_their_data(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(REPO), str(tmp_path / "clone")], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path), str(tmp_path / "clone")],
        check=True,
        capture_output=True,
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tracked = subprocess.run(
        ["git", "ls-files", "flows", "tasks", "storage"], cwd=REPO, capture_output=True, text=True
    )
    assert set(tracked.stdout.split()) <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "deployments/"))]
