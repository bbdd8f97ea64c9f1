"""Embeddings from files: matched by key, unit rows, and every misfit said with both numbers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import EmbeddingsError
from tasks.dissection.errors import ConceptError
from tasks.precomputed import ImageEmbeddingsFile, read_npy
from tasks.preflight import preflight
from tests.test_tasks.conftest import Bench

PATHS = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
MATRIX = np.array([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]], dtype=np.float32)


def embeddings_file(folder: Path, keys: str, matrix: Any = MATRIX) -> ImageEmbeddingsFile:
    np.save(folder / "x.npy", matrix)
    (folder / "x.keys.txt").write_bytes(keys.encode())
    return ImageEmbeddingsFile.at(str(folder / "x.npy"))


def test_rows_are_scaled_to_norm_1_in_float32(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "x.npy", MATRIX.astype(dtype))
        rows = read_npy(str(tmp_path / "x.npy"))
        assert rows.dtype == np.float32
        assert np.allclose(rows, [[0.6, 0.8], [0, 1], [-1, 0]])


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", MATRIX)
    read_npy(str(tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", -MATRIX)
    assert read_npy(str(tmp_path / "x.npy"))[1, 1] == -1


def test_rows_come_in_the_order_of_the_probe_not_of_the_file(tmp_path: Path) -> None:
    file = embeddings_file(tmp_path, "dog/1.jpg\ncat/2.jpg\ncat/1.jpg\n")
    assert np.allclose(file.rows(PATHS), [[-1, 0], [0, 1], [0.6, 0.8]])
    assert np.allclose(file.rows(PATHS[1:2]), [[0, 1]])


def test_rows_that_no_image_has_are_not_used(tmp_path: Path) -> None:
    file = embeddings_file(tmp_path, "rejected.jpg\ncat/1.jpg\nother/9.jpg\n")
    assert np.allclose(file.rows(["cat/1.jpg"]), [[0, 1]])


@pytest.mark.parametrize(
    "keys",
    [
        "cat/1.jpg\r\ncat/2.jpg\r\ndog/1.jpg\r\n",
        "cat/1.jpg\ncat/2.jpg\ndog/1.jpg",
        "./cat/1.jpg\n./cat/2.jpg\n./dog/1.jpg\n",
        "\ufeffcat/1.jpg\ncat/2.jpg\ndog/1.jpg\n",
    ],
    ids=["windows", "no last line break", "of find", "byte order mark"],
)
def test_keys_are_read_however_they_were_written(tmp_path: Path, keys: str) -> None:
    assert np.allclose(embeddings_file(tmp_path, keys).rows(PATHS[:1]), [[0.6, 0.8]])


@pytest.mark.parametrize("path", [" leading.jpg", "a\u2028b.jpg", "a\x0bb.jpg", "ü/日本 1.jpg"])
def test_a_key_is_a_path_to_the_letter(tmp_path: Path, path: str) -> None:
    file = embeddings_file(tmp_path, f"{path}\ncat/1.jpg\ncat/2.jpg\n")
    assert np.allclose(file.rows([path]), [[0.6, 0.8]])


def test_images_without_a_row_are_counted_and_shown(tmp_path: Path) -> None:
    file = embeddings_file(tmp_path, "cat/1.jpg\n1.jpg\n2.jpg\n")
    with pytest.raises(
        EmbeddingsError, match=r"2 of 3 probe images have no row among the 3 of .*x\.keys\.txt"
    ) as caught:
        file.rows(PATHS)
    assert "first: 'cat/2.jpg'; its first key: 'cat/1.jpg'" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "lines"), [("a.jpg\nb.jpg\n", "2 lines"), ("a\nb\nc\nd\n", "4 lines"), ("a\na\nb\n", "3 lines with 2")]
)
def test_keys_and_rows_that_do_not_match_are_said_with_both_numbers(tmp_path: Path, keys: str, lines: str) -> None:
    with pytest.raises(EmbeddingsError, match=rf"has 3 rows, and .*x\.keys\.txt has {lines}"):
        embeddings_file(tmp_path, keys).rows(["a"])


def test_missing_keys_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", MATRIX)
    with pytest.raises(EmbeddingsError, match=r"There is no file .*x\.keys\.txt"):
        ImageEmbeddingsFile.at(str(tmp_path / "x.npy")).digest()


def test_the_digest_is_of_both_files(tmp_path: Path) -> None:
    digests = {
        embeddings_file(tmp_path, "a\nb\nc\n").digest(),
        embeddings_file(tmp_path, "b\na\nc\n").digest(),
        embeddings_file(tmp_path, "a\nb\nc\n", MATRIX * 2).digest(),
    }
    assert len(digests) == 3


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_rows_without_a_direction_are_refused_by_number(tmp_path: Path, value: float) -> None:
    matrix = MATRIX.copy()
    matrix[1] = value
    np.save(tmp_path / "x.npy", matrix)
    with pytest.raises(EmbeddingsError, match=r"x\.npy: 1 of 3 rows are zero, NaN or infinite \(first: row 1\)"):
        read_npy(str(tmp_path / "x.npy"))


def text(path: Path) -> None:
    path.write_text("cat,dog\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(MATRIX))


def objects(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def torn(path: Path) -> None:
    np.save(path, MATRIX)
    path.write_bytes(path.read_bytes()[:-3])


def archive(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), MATRIX)
    path.with_suffix(".npz").rename(path)


def no_rows(path: Path) -> None:
    np.save(path, np.zeros((0, 4), np.float32))


def no_columns(path: Path) -> None:
    np.save(path, np.zeros((3, 0), np.float32))


def vector(path: Path) -> None:
    np.save(path, np.ones(3, np.float32))


def cube(path: Path) -> None:
    np.save(path, np.ones((2, 3, 4), np.float32))


def integers(path: Path) -> None:
    np.save(path, np.ones((2, 3), np.int64))


@pytest.mark.parametrize(
    "write", [text, empty, pickled, objects, torn, archive, no_rows, no_columns, vector, cube, integers]
)
def test_a_file_that_holds_no_matrix_of_floats_is_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "x.npy")
    with pytest.raises(EmbeddingsError, match=r"x\.npy"):
        read_npy(str(tmp_path / "x.npy"))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(EmbeddingsError, match=r"There is no file nowhere/x\.npy"):
        read_npy("nowhere/x.npy")


def test_a_file_below_the_root_is_not_looked_for_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "no-such-file-below-the-root.npy", MATRIX)
    with pytest.raises(EmbeddingsError, match="There is no file"):
        read_npy("/no-such-file-below-the-root.npy")


# ------------------------------------------------------------------------------------------------- preflight


def test_a_run_whose_inputs_fit_starts(bench: Bench) -> None:
    preflight(bench.spec())


def test_embeddings_of_two_models_are_refused_before_the_work_with_both_numbers(bench: Bench) -> None:
    np.save(bench.concept_embeddings, np.ones((4, 5), np.float32))
    with pytest.raises(EmbeddingsError, match=r"3.*5|5.*3"):
        preflight(bench.spec())


def test_a_truth_of_another_length_is_refused_with_both_numbers(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("red\ngreen\n")
    with pytest.raises(ConceptError, match="has 2 concepts, and the layer head has 4 neurons"):
        preflight(bench.spec(truth=str(tmp_path / "truth.txt")))


def test_a_transposed_matrix_is_said_to_be_one(bench: Bench, tmp_path: Path) -> None:
    np.save(bench.concept_embeddings, np.ones((5, 4), np.float32))
    with pytest.raises(EmbeddingsError, match=r"has 5 rows.* 4 concepts.*shape \[5, 4\]: is it transposed\? .*\.T\)"):
        preflight(bench.spec())
    with pytest.raises(EmbeddingsError, match=r"has 2 rows, and .* 3 lines.*shape \[2, 3\]: is it transposed"):
        embeddings_file(tmp_path, "a\nb\nc\n", MATRIX.T).rows(["a"])


@pytest.mark.parametrize("ending", ["txt", "csv", "pt", "npz", "SafeTensors"])
def test_embeddings_in_other_files_are_refused_with_the_lines_that_convert_them(ending: str, tmp_path: Path) -> None:
    url = tmp_path / f"x.{ending}"
    url.write_bytes(b"1 0\n0 1\n")
    with pytest.raises(EmbeddingsError, match=r"is no \.npy file") as caught:
        read_npy(str(url))
    *_, load, save = str(caught.value).split("\n")
    if ending == "txt":  # they work
        exec(f"{load}\n{save}")
        assert np.array_equal(np.load(tmp_path / "x.npy"), np.eye(2))
    assert save == f"np.save({str(tmp_path / 'x.npy')!r}, X)"
