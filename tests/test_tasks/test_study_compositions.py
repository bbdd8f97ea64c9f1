"""Pairs of a neuron's best words, scored anew beside the words."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from flows.__main__ import cli
from storage import arrays
from storage.completion import Rows
from tasks.concepts import embed_texts
from tasks.dissection.similarity import SIMILARITIES
from tasks.finished import FinishedRun, StudyError
from tasks.models.clip import load_clip
from tasks.observation import EMBEDDINGS
from tasks.publish import plan_publication, publish
from tasks.studies.compositions import CompositionsQuestion, compositions
from tasks.studies.outcome import write
from tests.test_tasks.conftest import Bench, TinyClip, labelled, make_clip, on_cpu
from tests.test_tasks.test_study_cutoff import files_of
from tests.test_tasks.test_study_similarities import silent

LISTED = ("red", "dark red", "sky", "Red", "ocean", "grass", "sky grass", "stone", "night")
ASKED: dict[str, Any] = {"layer": "head", "words": 3, "resamples": 50}


def run_with(bench: Bench, clip: TinyClip, listed: tuple[str, ...] = LISTED, **changes: Any) -> FinishedRun:
    """A published run whose concepts a CLIP model with random weights embeds."""
    bench.concepts.write_text("\n".join(listed) + "\n")
    own = {**clip.options, "image_embeddings": None, "concept_embeddings": None, "null_samples": 20}
    spec = bench.spec(out=str(bench.images.parent / "out"), **own | changes)
    publish.fn(plan_publication(labelled(spec), spec))
    return FinishedRun.at(str(bench.images.parent / "out"))


@pytest.mark.parametrize("similarity", ["soft_wpmi", "wpmi", "cos"])
def test_pairs_are_scored_as_if_they_stood_on_the_list(bench: Bench, tiny_clip: TinyClip, similarity: str) -> None:
    options = {"top_k": 5} if similarity != "cos" else {}
    prompt = "a {} thing"
    run = run_with(bench, tiny_clip, similarity=similarity, prompt=prompt, **{"top_k": None} | options)
    found = compositions(run, CompositionsQuestion([2, 0], **ASKED), silent)

    plan = run.plan_of(["head"])
    everything = Rows(0, plan.probe.num_images)
    images = torch.from_numpy(arrays.read_rows(plan.embeddings.group(), EMBEDDINGS, everything))
    activations = torch.from_numpy(arrays.read_rows(plan.activations.group(), "head", everything))

    def scored(texts: list[str], neuron: int) -> Any:
        clip = on_cpu(load_clip(str(tiny_clip.config), str(tiny_clip.checkpoint)))
        P = images @ torch.from_numpy(embed_texts(clip, [prompt.format(text) for text in texts])).T
        return SIMILARITIES[similarity](P, activations, **options).similarity[neuron].double().numpy()

    assert found.data["neurons"]["neuron"].tolist() == [2, 0]
    for row in found.data["neurons"].to_dict("records"):
        alone = dict(zip(LISTED, scored(list(LISTED), row["neuron"]), strict=True))
        single = [text for text in LISTED if " " not in text and text != "Red"]
        best = sorted(single, key=lambda text: max(alone[text], alone["Red"] if text == "red" else -np.inf))[-3:]
        pairs = [f"{one} {other}" for one, other in permutations(best, 2) if f"{one} {other}" != "sky grass"]
        whole = dict(zip([*LISTED, *pairs], scored([*LISTED, *pairs], row["neuron"]), strict=True))
        assert row["pairs"] == len(pairs) and row["words"] == 3
        assert row["word"] == max(best, key=whole.__getitem__) and row["pair"] == max(pairs, key=whole.__getitem__)
        assert row["word_similarity"] == pytest.approx(whole[row["word"]], abs=2e-5)
        assert row["gain"] == pytest.approx(whole[row["pair"]] - whole[row["word"]], abs=2e-5)
        written = found.data["pairs"].query(f"neuron == {row['neuron']}")
        assert written["pair"].tolist() == sorted(pairs, key=whole.__getitem__, reverse=True)
        assert 0 <= row["null_quantile"] <= 1


def test_drawn_neurons_are_live_and_the_files_are_the_same_each_time(
    bench: Bench, tiny_clip: TinyClip, tmp_path: Path
) -> None:
    run = run_with(bench, tiny_clip)
    for again in ("1", "2"):
        found = compositions(run, CompositionsQuestion(layer="conv", sample=9, words=2, resamples=50), silent)
        write(run, "compositions", found, str(tmp_path / again))
    assert found.data["neurons"]["neuron"].tolist() == [0, 1, 2]  # the last is dead
    assert "compositions.svg" in (written := files_of(tmp_path / "1")) and written == files_of(tmp_path / "2")
    labels = run.first_labels.query("layer == 'conv'")["concept"].tolist()
    assert found.data["neurons"]["label"].tolist() == labels[:3]
    drawn = {
        tuple(compositions(run, CompositionsQuestion(sample=1, words=2, seed=seed), silent).asked["neurons"])
        for seed in range(5)
    }
    assert len(drawn) > 1 and all(len(neurons) == 1 for neurons in drawn)


def test_of_a_run_without_null_neurons_nothing_is_known_of_chance(bench: Bench, tiny_clip: TinyClip) -> None:
    run = run_with(bench, tiny_clip, null_samples=0)
    found = compositions(run, CompositionsQuestion([0], **ASKED), silent)
    assert found.data["neurons"][["null_quantile", "null_median_gain"]].isna().all(axis=None)
    assert "shuffled" not in str(found.shown[-1])


def test_precomputed_embeddings_have_no_text_encoder(studied: FinishedRun) -> None:
    with pytest.raises(StudyError, match=r"concept_embeddings.npy.*Run again with --clip MODEL"):
        compositions(studied, CompositionsQuestion(), silent)


def test_neurons_that_are_not_there_or_dead_and_lists_without_words_are_refused(
    bench: Bench, tiny_clip: TinyClip
) -> None:
    run = run_with(bench, tiny_clip, ("red", "Red", "dark red"))
    for neuron, layer, match in ((9, "head", "are 0 to 3"), (3, "conv", "Neuron 3 of conv is dead")):
        with pytest.raises(StudyError, match=match):
            compositions(run, CompositionsQuestion([neuron], layer=layer), silent)
    with pytest.raises(StudyError, match="has 1 single words to join"):
        compositions(run, CompositionsQuestion([0]), silent)


def test_another_encoder_than_the_run_s_is_refused(bench: Bench, tiny_clip: TinyClip) -> None:
    run = run_with(bench, tiny_clip)
    make_clip(tiny_clip.config.parent, seed=1)
    load_clip.cache_clear()
    with pytest.raises(StudyError, match="is not the one that embedded"):
        compositions(run, CompositionsQuestion([0]), silent)


def test_neurons_are_numbers(studied: FinishedRun) -> None:
    done = CliRunner().invoke(cli, ["study", "compositions", studied.out.url, "--neurons", "1,x"])
    assert done.exit_code == 2 and "--neurons 'x' is no number" in done.output
