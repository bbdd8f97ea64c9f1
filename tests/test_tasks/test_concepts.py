"""Concept embeddings are kept by text: an edited list embeds only its new lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import EmbeddingsError, IncompleteError
from storage.files import Folder
from tasks.concepts import (
    concept_embeddings_of,
    concept_list,
    embed_concepts,
    missing_texts,
    named_list,
    read_concept_embeddings,
)
from tasks.dissection.errors import ConceptError
from tasks.models.clip import load_clip
from tasks.spec import DissectSpec
from tests.test_tasks.conftest import Bench, TinyClip, on_cpu


def embedded(spec: DissectSpec) -> np.ndarray[Any, Any]:
    ref = concept_embeddings_of(spec)
    embed_concepts.fn(ref, spec, 0)
    return read_concept_embeddings(ref, spec)


def test_an_edited_list_embeds_only_its_new_lines(bench: Bench, tiny_clip: TinyClip) -> None:
    spec = bench.spec(concept_embeddings=None, image_embeddings=None, **tiny_clip.options)
    ref = concept_embeddings_of(spec)
    assert missing_texts(ref, spec) == ["red", "green", "blue", "grey"]
    assert embed_concepts.fn(ref, spec, 4) == 4
    bench.concepts.write_text("mauve\nblue\nred\npink\n")
    assert concept_embeddings_of(spec) == ref
    assert missing_texts(ref, spec) == ["mauve", "pink"]
    assert embed_concepts.fn(ref, spec, 2) == 2
    assert embed_concepts.fn(ref, spec, 0) == 0
    clip = load_clip(str(tiny_clip.config), str(tiny_clip.checkpoint))
    expected = on_cpu(clip).embed_texts(["mauve", "blue", "red", "pink"]).numpy()
    assert np.allclose(read_concept_embeddings(ref, spec), expected, atol=1e-6)


def test_a_prompt_stands_around_every_concept(bench: Bench, tiny_clip: TinyClip) -> None:
    bare = bench.spec(concept_embeddings=None, **tiny_clip.options, image_embeddings=None)
    spec = bare.model_copy(update={"prompt": "a {} of {}"})
    assert missing_texts(concept_embeddings_of(spec), spec)[0] == "a red of red"
    clip = load_clip(str(tiny_clip.config), str(tiny_clip.checkpoint))
    expected = on_cpu(clip).embed_texts([f"a {name} of {name}" for name in ("red", "green", "blue", "grey")]).numpy()
    assert np.allclose(embedded(spec), expected, atol=1e-6)
    assert not np.allclose(embedded(bare), expected, atol=1e-3)


def test_a_precomputed_row_belongs_to_the_concept_of_its_line(bench: Bench) -> None:
    assert np.allclose(embedded(bench.spec())[:3], np.eye(3))


def test_blank_lines_are_no_concepts(bench: Bench) -> None:
    bench.concepts.write_text("\nred\n\ngreen\nblue\n  \ngrey\n\n")
    assert np.allclose(embedded(bench.spec())[:3], np.eye(3))
    assert concept_list(bench.spec()).num_blank == 4


def test_precomputed_rows_of_another_list_are_other_embeddings(bench: Bench) -> None:
    before = concept_embeddings_of(bench.spec())
    bench.concepts.write_text("green\nred\nblue\ngrey\n")
    assert concept_embeddings_of(bench.spec()).digest != before.digest
    assert np.allclose(embedded(bench.spec())[:3], np.eye(3))


def test_rows_and_concepts_that_do_not_match_are_said_with_both_numbers(bench: Bench) -> None:
    bench.concepts.write_text("red\ngreen\nblue\n")
    with pytest.raises(EmbeddingsError, match=r"has 4 rows, and the list .*concepts\.txt has 3 concepts"):
        concept_embeddings_of(bench.spec())


def test_a_repeated_concept_keeps_its_place_and_shares_its_embedding(bench: Bench) -> None:
    bench.concepts.write_text("red\ngreen\nred\nblue\n")
    np.save(bench.concept_embeddings, np.eye(3, dtype=np.float32)[[0, 1, 0, 2]])
    assert np.array_equal(embedded(bench.spec()), np.eye(3)[[0, 1, 0, 2]])


def test_one_text_with_two_embeddings_is_refused(bench: Bench) -> None:
    bench.concepts.write_text("red\ngreen\nred\nblue\n")
    with pytest.raises(EmbeddingsError, match="'red' is listed twice, and rows 0 and 2"):
        embedded(bench.spec())


def test_repeated_concepts_are_dropped_where_asked(bench: Bench, tiny_clip: TinyClip) -> None:
    bench.concepts.write_text("red\ngreen\nred\n")
    options = {"concept_embeddings": None, "image_embeddings": None, **tiny_clip.options}
    assert len(embedded(bench.spec(**options))) == 3
    assert len(embedded(bench.spec(**options, unique_concepts=True))) == 2


def test_embeddings_that_are_missing_are_counted_with_the_way_out(bench: Bench) -> None:
    ref = concept_embeddings_of(bench.spec())
    with pytest.raises(IncompleteError, match=r"4 of 4 concepts have no embedding yet.*'red'.*clip-dissect embed"):
        read_concept_embeddings(ref, bench.spec())


@pytest.mark.parametrize("name", ["nowhere.txt", "common-5k", "/nowhere/concepts.txt", "imagenett"])
def test_a_list_that_is_not_there_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(ConceptError, match=f"{name}.*common-20k.*imagenet, sample"):
        named_list(name)


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match=str(tmp_path)):
        named_list(str(tmp_path))


def test_a_file_below_the_root_is_not_looked_for_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no-such-list-below-the-root.txt").write_text("red\n")
    with pytest.raises(ConceptError, match="There is no concept file"):
        named_list("/no-such-list-below-the-root.txt")


def test_a_list_may_lie_at_any_url() -> None:
    Folder.at("memory://lists-of-a-test").write("concepts.txt", b"red\ngreen\n")
    assert named_list("memory://lists-of-a-test/concepts.txt").concepts == ("red", "green")
