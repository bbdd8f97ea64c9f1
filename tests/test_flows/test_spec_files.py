"""A spec from somebody else says what to compute; what code runs is said by whoever types the command."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.__main__ import cli
from flows.engine.options import SpecError, build_spec
from tasks.spec import DissectSpec, ShardSpec

SPEC = {"probe": "images", "layers": "conv", "clip": "sample", "concepts": "sample", "target": "sample"}


def file_of(folder: Path, **changes: Any) -> Path:
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(SPEC | changes))
    return file


@pytest.mark.parametrize(
    ("changes", "typed"),
    [
        ({"target": "evil:make"}, {"target": "evil:make"}),
        ({"target": "evil net.sub:make"}, {"target": "evil net.sub:make"}),
        ({"target": "./evil.py:make"}, {"target": "./evil.py:make"}),
        ({"target": "/tmp/evil.py:make"}, {"target": "/tmp/evil.py:make"}),
        ({"preprocess": "evil:crop"}, {"preprocess": "evil:crop"}),
        ({"dask_address": "tcp://evil:8786"}, {"dask_address": "tcp://evil:8786"}),
        (both := {"target": "evil:make", "dask_address": "tcp://evil:8786"}, both),
    ],
    ids=str,
)
def test_what_would_run_code_has_to_be_typed_too(
    changes: dict[str, str], typed: dict[str, str], tmp_path: Path
) -> None:
    file = file_of(tmp_path, **changes)
    with pytest.raises(SpecError) as caught:
        build_spec(DissectSpec, file, {})
    assert str(file) in str(caught.value)
    for name, value in typed.items():
        assert re.search(rf"--{name.replace('_', '-')} '?{re.escape(value)}'?", str(caught.value))
    assert build_spec(DissectSpec, file, typed) == DissectSpec(**(SPEC | changes))
    others = {"target": "sample", "preprocess": "32", "dask_address": "tcp://mine:1"}
    assert build_spec(DissectSpec, file, others).target == "sample"


@pytest.mark.parametrize(
    "target", ["sample", "torchvision:resnet18", "timm:resnet18.a1_in1k", "open_clip:RN50/openai"]
)
def test_a_network_of_a_library_is_taken_from_the_file(target: str, tmp_path: Path) -> None:
    assert build_spec(DissectSpec, file_of(tmp_path, target=target), {}).target == target


def test_a_stage_that_loads_no_network_needs_no_word_about_it(tmp_path: Path) -> None:
    assert build_spec(ShardSpec, file_of(tmp_path, target="evil:make"), {}).probe == ("images",)


def test_the_command_imports_nothing_that_only_a_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_of_a_file.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    monkeypatch.chdir(tmp_path)
    for command in ("run", "record", "submit"):
        result = CliRunner().invoke(cli, [command, "--spec", str(file_of(tmp_path, target="evil_of_a_file:make"))])
        assert result.exit_code == 2 and "--target evil_of_a_file:make" in result.output
    assert not (tmp_path / "touched").exists() and "evil_of_a_file" not in sys.modules


def test_tags_of_python_objects_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(f"probe: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(SpecError, match="is no YAML"):
        build_spec(ShardSpec, file, {})
    assert not (tmp_path / "made").exists()


def test_aliases_of_aliases_do_not_fill_the_memory_with_a_message(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    file = tmp_path / "spec.yaml"
    file.write_text("\n".join([*lines, "probe: *a11", "ranks: *a11"]))
    with pytest.raises(SpecError) as caught:
        build_spec(ShardSpec, file, {})
    assert len(str(caught.value)) < 20_000


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None, derandomize=True
)
@given(cut=st.integers(0, 400), put=st.binary(max_size=4), more=st.text(max_size=8))
def test_any_file_is_a_spec_or_refused_in_words(cut: int, put: bytes, more: str, tmp_path: Path) -> None:
    data = yaml.safe_dump(SPEC | {"ranks": 3, "tau": "null:0.9", "prompt": f"a {more} {{}}", "lam": 0.5}).encode()
    cut %= len(data)
    file = tmp_path / "spec.yaml"
    for content in (
        data[:cut] + put,
        data[:cut] + put + data[cut + len(put) :],
        more.encode("utf-8", "replace"),
    ):
        file.write_bytes(content)
        try:
            build_spec(DissectSpec, file, {})
        except SpecError as error:
            assert str(error)
