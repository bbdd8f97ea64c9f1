"""Evaluating labels: anybody's tables, true concepts from files, and what is worked out of both."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from storage.errors import TableError
from storage.files import Folder
from tasks.dissection.errors import ConceptError, UnknownNameError
from tasks.evaluation import shown
from tasks.evaluation.figures import Evaluation, Figure, Question, evaluate
from tasks.evaluation.labels import ONLY_LAYER, read_labels
from tasks.evaluation.texts import cosines, sentence_encoder
from tasks.models.errors import DownloadError, ModelError
from tasks.preflight import preflight
from tasks.publish import plan_publication, publish
from tasks.published import possible_in_words
from tasks.show import run_lines
from tests.test_tasks.conftest import Bench, TinyClip, Write, labelled


def figure(of: Evaluation, name: str) -> Figure:
    [found] = [one for one in of.figures if one.name == name]
    return found


def values(of: Evaluation) -> dict[str, float | None]:
    return {one.name: one.value for one in of.figures}


# Label tables


def test_a_table_of_several_layers_is_read_by_layer_the_last_by_default(write: Write) -> None:
    table = write("x.csv", "layer,unit,description,similarity", "fc,0,cat,1.5", "fc,1,dog,2", "head,0,bird,3")
    assert read_labels(table).layer == "head"
    fc = read_labels(table, "fc")
    assert fc.rows[["unit", "label", "similarity"]].to_numpy().tolist() == [[0, "cat", 1.5], [1, "dog", 2.0]]
    with pytest.raises(UnknownNameError, match=r"no layer 'fcc'.*Nearest: fc"):
        read_labels(table, "fcc")


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("unit,description,similarity", "1,cat,.5"),
        ("neuron,concept,score", "1,cat,.5"),
        ("unit,category,label,score", "1,object,cat,.5"),
        ("unit,label", "1,cat"),
    ],
)
def test_columns_may_have_the_names_that_other_tools_give_them(write: Write, header: str, row: str) -> None:
    table = read_labels(write("x.csv", header, row))
    assert table.layer == ONLY_LAYER and table.rows[["unit", "label"]].to_numpy().tolist() == [[1, "cat"]]
    assert table.rows["similarity"].tolist() == ([0.5] if ".5" in row else [pytest.approx(math.nan, nan_ok=True)])


def test_parquet_is_read_as_csv_is(write: Write, tmp_path: Path) -> None:
    csv = write("x.csv", "layer,unit,description,similarity", "fc,0,cat,1.5", "fc,0,dog,0.5", "fc,2,owl,")
    pd.read_csv(csv).to_parquet(tmp_path / "x.parquet")
    of_csv, of_parquet = read_labels(csv), read_labels(str(tmp_path / "x.parquet"))
    pd.testing.assert_frame_equal(of_csv.rows, of_parquet.rows, check_dtype=False)


def test_rows_of_a_unit_are_ranked_by_rank_else_by_similarity_else_as_they_stand(write: Write) -> None:
    def labels(header: str, *rows: str) -> list[str]:
        return list(read_labels(write("x.csv", header, *rows)).rows["label"])

    assert labels("unit,label,similarity,rank", "1,c,9,2", "1,b,1,1", "0,a,5,1") == ["a", "b", "c"]
    assert labels("unit,label,similarity", "1,c,1", "0,a,5", "1,b,9", "1,d,") == ["a", "b", "c", "d"]
    assert labels("unit,label", "1,c", "0,a", "1,b") == ["a", "c", "b"]


def test_words_that_pandas_takes_for_nothing_are_labels_and_blank_is_none(write: Write) -> None:
    rows = read_labels(write("x.csv", "unit,label", "0,null", "1,nan", "2,", "3,NA", "4,'-mark", "5,(dead)")).rows
    assert rows["label"].tolist() == ["null", "nan", "", "NA", "-mark", "(dead)"]
    assert rows["is_dead"].tolist() == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["layer,index,label", "fc,0,cat"], ["no column unit or neuron", "layer, index, label"]),
        (["unit,text", "0,cat"], ["no column description or label or concept"]),
        (["unit,label", "0,cat", "x,dog"], ["row 2", "unit is 'x'"]),
        (["unit,label", "1.5,cat"], ["row 1", "'1.5'", "begin at 0"]),
        (["unit,label", "1e12,cat"], ["row 1", "below 67,108,864"]),
        (["unit,label,similarity", "0,cat,high"], ["row 1", "similarity is 'high'"]),
        (["unit,label,rank", "0,cat,1", "0,dog,1"], ["two labels of rank 1 for unit 0"]),
        (["unit,label,rank", "0,cat,1", "0,dog,"], ["1 labels without a rank, of 2"]),
        (["unit,label"], ["no row"]),
        ([""], ["no CSV"]),
    ],
)
def test_a_table_that_is_none_says_what_is_wrong(write: Write, lines: list[str], words: list[str]) -> None:
    with pytest.raises(TableError) as raised:
        read_labels(write("x.csv", *lines))
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_file_of_the_user_s_that_is_no_table_is_not_to_be_removed(write: Write) -> None:
    with pytest.raises(TableError, match=r"list\.parquet is no Parquet table .*magic bytes") as raised:
        read_labels(write("list.parquet", "red", "green"))
    assert "emove" not in str(raised.value)


def test_a_table_that_is_not_there_and_a_layer_it_cannot_name(write: Write, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"There is no table .*none\.parquet"):
        read_labels(str(tmp_path / "none.parquet"))
    with pytest.raises(TableError, match=r"no column layer.*Drop --layer"):
        read_labels(write("x.csv", "unit,label", "0,cat"), "fc")


# Figures


def test_the_figures_of_a_table_with_ranks(write: Write) -> None:
    rows = ["0,cat,9,1", "0,dog,8,2", "1,Cat,7,1", "1,bird,6,2", "2,owl,5,1", "2,cat,4,2", "3,dog,3,1", "3,fox,2,2"]
    table = write("x.csv", "unit,label,similarity,rank", *rows)
    truth = write("truth.txt", "cat", "bird", "", "DOG")
    found = evaluate(Question(table, truth, tau="4", resamples=200))
    assert found.num_units == 4 and found.num_known == 3
    assert values(found) == {
        "top1_accuracy": pytest.approx(2 / 3),
        "top5_accuracy": 1.0,  # no unit's right concept is beyond the two ranks
        "mean_rank": pytest.approx(4 / 3),
        "median_rank": 1.0,
        "roc_auc": 0.5,  # of right 9 and 3 against wrong 7
        "distinct_labels": 3,
        "entropy_bits": pytest.approx(1.5),
        "interpretable": 0.75,
    }
    accuracy = figure(found, "top1_accuracy")
    assert accuracy.low is not None and accuracy.high is not None and accuracy.low < 2 / 3 < accuracy.high
    assert "1 units have no known concept, and are left out." in found.notes
    assert evaluate(Question(table, truth, tau="4", resamples=200)) == found


def test_ranks_that_a_table_has_not_are_not_invented(write: Write) -> None:
    table = write("x.csv", "unit,label,rank", "0,cat,1", "0,dog,2", "1,cat,1", "1,dog,2", "2,cat,1", "2,dog,2")
    found = evaluate(Question(table, write("truth.txt", "dog", "cat", "bird")))
    assert values(found)["top1_accuracy"] == pytest.approx(1 / 3)
    assert values(found)["top5_accuracy"] is None and figure(found, "top5_accuracy").note == "the table has 2 ranks"
    assert values(found)["mean_rank"] is None and values(found)["median_rank"] == 2.0
    assert figure(found, "mean_rank").note == "1 are beyond rank 2"
    assert values(found)["roc_auc"] is None and figure(found, "roc_auc").note == "the table has no similarities"


def test_a_curve_needs_right_and_wrong_labels(write: Write) -> None:
    table = write("x.csv", "unit,label,similarity", "0,cat,1", "1,dog,2")
    right = figure(evaluate(Question(table, write("truth.txt", "cat", "dog"))), "roc_auc")
    assert (right.value, right.low, right.note) == (None, None, "all first labels are right")
    wrong = figure(evaluate(Question(table, write("truth.txt", "dog", "cat"))), "roc_auc")
    assert (wrong.value, wrong.note) == (None, "no first label is right")


def test_dead_units_are_wrong_and_left_out_of_what_compares_labels(write: Write) -> None:
    table = write("x.csv", "unit,label,similarity", "0,cat,1", "1,(dead),0", "2,dog,2")
    found = evaluate(Question(table, write("truth.txt", "cat", "(dead)", "bird"), tau="0.5"))
    assert values(found)["top1_accuracy"] == pytest.approx(1 / 3)
    assert figure(found, "roc_auc").num_units == 2 and values(found)["roc_auc"] == 0.0
    assert values(found)["distinct_labels"] == 2 and values(found)["interpretable"] == pytest.approx(2 / 3)
    assert "1 units have no label: wrong in accuracy, and left out of what compares labels." in found.notes


def test_units_that_only_one_side_has_are_told_or_refused(write: Write) -> None:
    table = write("x.csv", "unit,label", "1,cat", "2,dog")
    found = evaluate(Question(table, write("truth.txt", "owl", "cat", "dog", "fox")))
    assert found.num_known == 2 and values(found)["top1_accuracy"] == 1.0
    assert "2 units with a known concept have no row in the table, and are left out." in found.notes
    two = write("two.txt", "cat", "dog")
    with pytest.raises(TableError, match=r"unit 2, .* 2 lines: units 0 to 1\. Give --first-unit 1"):
        evaluate(Question(table, two))
    assert values(evaluate(Question(table, two, first_unit=1)))["top1_accuracy"] == 1.0
    with pytest.raises(ConceptError, match="No unit of layer"):
        evaluate(Question(table, write("other.csv", "unit,concept", "7,cat")))


def test_without_a_truth_only_labels_are_counted(write: Write) -> None:
    table = write("x.csv", "unit,label", "0,cat", "1,dog")
    found = evaluate(Question(table))
    assert values(found) == {"distinct_labels": 2, "entropy_bits": 1.0} and found.num_known is None
    with pytest.raises(ConceptError, match="--truth"):
        evaluate(Question(table, clip="sample"))
    with pytest.raises(TableError, match=r"--tau 0\.2 needs the similarity of every first label"):
        evaluate(Question(table, tau="0.2"))


def test_figures_are_written_as_json_and_csv(write: Write, tmp_path: Path) -> None:
    table = write("x.csv", "unit,label,similarity", "0,cat,1", "1,dog,2")
    found = evaluate(Question(table, write("truth.txt", "cat", "cat"), resamples=0))
    shown.write(found, str(tmp_path / "figures.json"))
    read = json.loads((tmp_path / "figures.json").read_text())
    assert read["figures"]["top1_accuracy"] == {"value": 0.5, "low": None, "high": None, "units": 2, "note": ""}
    assert read["units"] == read["known"] == 2 and read["interval"]["resamples"] == 0
    shown.write(found, str(tmp_path / "figures.csv"))
    of_csv = pd.read_csv(tmp_path / "figures.csv").set_index("figure")
    assert of_csv.loc["roc_auc", "value"] == 0.0 and of_csv["units"].tolist() == found.as_table()["units"].tolist()
    with pytest.raises(TableError, match=r"--out x\.xlsx: figures are written as \.json or \.csv"):
        shown.check_out("x.xlsx")


def test_figures_take_no_file_s_place_that_is_a_run_s(tmp_path: Path) -> None:
    shown.check_out(str(tmp_path / "labels.csv"))
    (tmp_path / "run.json").write_text("{}")
    shown.check_out(str(tmp_path / "figures.csv"))
    for name in ("labels.csv", "run.json"):
        with pytest.raises(TableError, match=rf"{re.escape(name)}: it is a file of a run.*Name another"):
            shown.check_out(str(tmp_path / name))


# A run


def run_of(bench: Bench, out: Path, **changes: Any) -> dict[str, Any]:
    spec = bench.spec(out=str(out), **changes)
    preflight(spec)
    plan = plan_publication(labelled(spec), spec)
    publish.fn(plan)
    run: dict[str, Any] = plan.out.read_json("run.json")
    return run


def test_a_run_is_judged_by_its_own_truth_and_as_it_judged_itself(labelled_bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("red\n\nGREEN | blue\ngreen\n")
    run = run_of(labelled_bench, tmp_path / "out", truth=str(tmp_path / "truth.txt"))
    found = evaluate(Question(str(tmp_path / "out")))
    assert found.layer == "head" and found.num_units == 4 and found.num_known == 3
    assert run["accuracy"]["neurons"] == 3 and run["accuracy"]["truth"] == ["red", "", "GREEN | blue", "green"]
    assert run["accuracy"]["top1"] == values(found)["top1_accuracy"] == pytest.approx(2 / 3)
    assert values(found)["interpretable"] == run["layers"]["head"]["interpretable"] / 4
    assert values(found)["distinct_labels"] == run["layers"]["head"]["distinct_labels"]
    # Another layer has no truth of its own, and what a user gives comes first.
    assert evaluate(Question(str(tmp_path / "out"), layer="conv")).num_known is None
    assert values(evaluate(Question(str(tmp_path / "out"), str(labelled_bench.concepts))))["top1_accuracy"] == 1.0
    with pytest.raises(ConceptError, match="20 concepts, and the layer head has 4"):
        evaluate(Question(str(tmp_path / "out"), "sample"))


def test_kept_similarities_give_the_rank_of_every_right_concept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "truth.csv").write_text("unit,concept\n0,grey\n1,green\n2,red\n3,mauve\n")
    out = tmp_path / "out"
    run = run_of(bench, out, ranks=1, keep_similarities=True, truth=str(bench.concepts))
    kept = pd.DataFrame(np.asarray(zarr.open_group(Path(bench.store) / run["similarities"])["head"]))
    names = bench.concepts.read_text().split()
    by_hand = [
        int((-kept.loc[unit]).rank(method="first")[names.index(name)])
        for unit, name in [(0, "grey"), (1, "green"), (2, "red")]
    ]
    found = evaluate(Question(str(out), str(tmp_path / "truth.csv")))
    assert by_hand[1] == 1 and max(by_hand) > 1
    assert values(found)["mean_rank"] == pytest.approx(np.mean(by_hand)) and figure(found, "mean_rank").num_units == 3
    assert values(found)["top1_accuracy"] == 0.25 and values(found)["top5_accuracy"] == 0.75
    assert any(note.startswith("The concept of 1 units is none that units are labelled with") for note in found.notes)
    assert "Ranks are among all 4 concepts." in found.notes
    monkeypatch.setattr("tasks.evaluation.units.SIMILARITIES_HELD", 2 * 4)  # two neurons at a time
    assert evaluate(Question(str(out), str(tmp_path / "truth.csv"))) == found


def test_a_dead_unit_is_wrong_whatever_its_similarities(bench: Bench, tmp_path: Path) -> None:
    out, truth = tmp_path / "out", tmp_path / "truth.txt"
    run_of(bench, out, keep_similarities=True)
    truth.write_text("red\ngreen\nblue\ngrey | red | green | blue\n")  # any concept would be right
    found = evaluate(Question(str(out), str(truth), layer="conv"))
    assert values(found)["top1_accuracy"] == values(found)["top5_accuracy"] == 0.75
    assert values(found)["mean_rank"] == 1.0 and figure(found, "mean_rank").num_units == 3


def test_similarities_that_are_gone_leave_the_ranks_of_the_table(bench: Bench, tmp_path: Path) -> None:
    run = run_of(bench, tmp_path / "out", ranks=1, keep_similarities=True)
    (Path(bench.store) / run["similarities"]).with_suffix(".parquet").unlink()
    found = evaluate(Question(str(tmp_path / "out"), str(bench.concepts)))
    assert found.notes[-1].startswith("Of a unit, 1 labels are known at most")


# Text spaces


def test_a_cosine_is_of_the_nearest_name_and_each_text_is_embedded_once() -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        asked.extend(texts)
        angles = {"cat": 0.0, "dog": math.pi / 3, "owl": math.pi / 2}
        return np.array([[math.cos(angles[text]), math.sin(angles[text])] for text in texts], dtype=np.float32)

    found = cosines(["cat", "cat", "dog"], [["cat"], ["owl", "dog"], ["owl"]], encode)
    assert found.tolist() == pytest.approx([1.0, 0.5, math.cos(math.pi / 6)], abs=1e-6)
    assert sorted(asked) == ["cat", "dog", "owl"]


def test_the_cosine_in_a_clip_model_s_text_space(write: Write, tiny_clip: TinyClip) -> None:
    from tasks.models.clip import load_clip
    from tests.test_tasks.conftest import on_cpu

    table = write("x.csv", "unit,label", "0,cat", "1,dog", "2,(dead)")
    found = evaluate(Question(table, write("truth.txt", "cat", "owl", "fox"), **tiny_clip.options))
    clip = on_cpu(load_clip(str(tiny_clip.config), str(tiny_clip.checkpoint)))
    dog, owl = clip.embed_texts(["dog", "owl"])
    assert values(found)["clip_cosine"] == pytest.approx((1 + float(dog @ owl)) / 2, abs=1e-6)
    assert figure(found, "clip_cosine").num_units == 2


def test_a_sentence_model_needs_its_package(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"needs the package sentence-transformers: pip install"):
        sentence_encoder("all-mpnet-base-v2")


class OneHot:
    """Stands in for a sentence model: each text of a known list is a direction of its own."""

    def __init__(self, name: str, device: str) -> None:
        if name != "one-hot":
            raise OSError("couldn't connect")

    def encode(self, texts: list[str], **options: Any) -> np.ndarray[Any, Any]:
        assert options["normalize_embeddings"]
        return np.eye(26)[[ord(text[0]) - ord("a") for text in texts]]


def test_the_cosine_in_a_sentence_space_by_a_stand_in(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = type("sentence_transformers", (), {"SentenceTransformer": OneHot})
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in)
    table, truth = write("x.csv", "unit,label", "0,cat", "1,dog"), write("truth.txt", "carp", "owl")
    found = evaluate(Question(table, truth, sentence_model="one-hot"))
    assert values(found)["sentence_cosine"] == 0.5
    with pytest.raises(DownloadError, match=r"sentence model all-mpnet-base-v2 .*--sentence-model FOLDER"):
        evaluate(Question(table, truth, sentence_model="all-mpnet-base-v2"))


def test_a_sentence_model_from_a_folder(write: Write, tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers", reason="the extra `evaluate` is not installed")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "cat": 1, "dog": 2, "owl": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.array([[0, 0], [3, 0], [0, 2], [1, 1]], dtype=np.float32)
    package.SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)]).save(
        str(tmp_path / "model")
    )
    table, truth = write("x.csv", "unit,label", "0,cat", "1,dog"), write("truth.txt", "owl", "dog owl")
    found = evaluate(Question(table, truth, sentence_model=str(tmp_path / "model")))
    assert values(found)["sentence_cosine"] == pytest.approx((math.sqrt(1 / 2) + 3 / math.sqrt(10)) / 2)


@pytest.mark.parametrize("keep", [False, True])
def test_accuracy_is_also_told_of_the_concepts_that_labels_are_chosen_from(
    bench: Bench, tmp_path: Path, keep: bool
) -> None:
    out, truth = tmp_path / "out", tmp_path / "truth.txt"
    truth.write_text("red\nmauve\nblue | azure\nteal\n")
    run = run_of(bench, out, truth=str(truth), ranks=2, keep_similarities=keep)
    accuracy = run["accuracy"]
    assert (accuracy["neurons"], accuracy["possible"]) == (4, 2)
    assert (accuracy["top1"], accuracy["of_possible"]) == (0.5, {"top1": 1.0})
    told = "Accuracy of head on 4 known neurons: 50.0% top-1; the concept list has the true concepts of 2 of the 4, "
    assert any(told + "and of these it is 100.0% top-1" in line for line in run_lines(run, Folder.at(str(out)), 8))
    found = evaluate(Question(str(out)))
    assert (values(found)["top1_accuracy"], values(found)["top1_accuracy_listed"]) == (0.5, 1.0)
    assert figure(found, "top1_accuracy_listed").num_units == 2 and values(found)["mean_rank"] == 1.0
    assert any("concept of 2 units is none" in note and "2 of 4 can be named right" in note for note in found.notes)
    truth.write_text("mauve\n\nteal\n\n")
    nothing = evaluate(Question(str(out), str(truth)))
    assert values(nothing)["top1_accuracy"] == 0 and "top1_accuracy_listed" not in values(nothing)


def test_a_run_that_could_name_all_right_or_none_says_so(bench: Bench, tmp_path: Path) -> None:
    truth = tmp_path / "truth.txt"
    truth.write_text("Red\n\n\ngrey\n")
    run = run_of(bench, tmp_path / "one", truth=str(truth))
    assert run["accuracy"]["possible"] == 2 and "of_possible" not in run["accuracy"]
    assert possible_in_words(run["accuracy"]) == possible_in_words({"neurons": 2, "top1": 1.0}) == ""
    truth.write_text("mauve\n\n\nteal\n")
    run = run_of(bench, tmp_path / "other", truth=str(truth))
    assert possible_in_words(run["accuracy"]) == "; the concept list has none of the true concepts of these 2"


def test_a_list_that_has_changed_says_nothing_of_the_labels(bench: Bench, tmp_path: Path) -> None:
    run_of(bench, tmp_path / "out", ranks=2)
    (tmp_path / "truth.txt").write_text("mauve\n\nblue\n\n")
    for listed in ("red\ngreen\nblue\nmauve\n", "red\ngreen\nblue\ngrey\nmauve\n"):
        bench.concepts.write_text(listed)
        found = evaluate(Question(str(tmp_path / "out"), str(tmp_path / "truth.txt")))
        assert "top1_accuracy_listed" not in values(found)
