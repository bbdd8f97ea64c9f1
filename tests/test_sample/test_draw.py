"""The probe set on disk."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tasks.sample.draw import main, write_probe
from tasks.sample.world import draw, scene


def _files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_write_probe_makes_class_folders_of_exact_pictures(tmp_path):
    folder = write_probe(tmp_path / "probe", num_images=125)
    assert sorted(path.name for path in folder.iterdir()) == ["circle", "oval"]
    assert len(_files(folder)) == 125
    with Image.open(folder / "oval" / "0124.png") as picture:
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), draw(scene(124, "probe")))


def test_write_probe_twice_gives_the_same_files_and_leaves_a_whole_folder_alone(tmp_path):
    first, second = (write_probe(tmp_path / name, num_images=5) for name in ("a", "b"))
    assert _files(first) == _files(second)
    before = (first / "circle" / "0000.png").stat().st_mtime_ns
    assert write_probe(first, num_images=5) == first
    assert (first / "circle" / "0000.png").stat().st_mtime_ns == before


def test_write_probe_refuses_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds 1 files that are not the 5"):
        write_probe(tmp_path, num_images=5)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    def out_of_ink(_scene):
        raise OSError("out of ink")

    monkeypatch.setattr("tasks.sample.draw.draw", out_of_ink)
    with pytest.raises(OSError, match="out of ink"):
        write_probe(tmp_path / "probe", num_images=2)
    assert list(tmp_path.iterdir()) == []


def test_write_probe_refuses_no_pictures(tmp_path):
    with pytest.raises(ValueError, match="got 0"):
        write_probe(tmp_path / "probe", num_images=0)


def test_the_command_draws(tmp_path):
    result = CliRunner().invoke(main, [str(tmp_path / "probe"), "--num-images", "3"])
    assert result.exit_code == 0, result.output
    assert len(_files(tmp_path / "probe")) == 3
