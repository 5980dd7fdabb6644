"""evaluate_ood.py on tiny models: every number recomputed, who is left out, overlap, errors."""

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import evaluate_ood
import metrics
from data.formats import Tokenizer, build_examples, load_examples
from data.generate import SUITES as SUITES_MADE
from data.generate import build_tokenizer, make_missing
from data.subsets import Subsets
from evaluation import suites
from evaluation.training import sizes_in
from ood_models import (
    SUITES,
    TASKS,
    TRAIN,
    answering,
    evaluate,
    make_home,
    read,
    save_model,
    vocabulary,
    write_suite,
)
from runtime.files import sha256_of
from train_minigpt_4070 import GPT, RUN_ON, Batch, GPTConfig

ROOT = Path(__file__).resolve().parents[1]
ORIGIN = {  # as ood_extrap_rev.pkl of the earlier program
    "raw": ["[reversing_extrap] 24 16 2 | 2 16 24", "[reversing_extrap] 4 15 16 | 16 15 4"],
    "category": "ext",
    "count": 2,
    "encoded": [],
    "labels": [],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("ood"))


@pytest.fixture(scope="module")
def single(home):
    return evaluate(home / "run/best_model.pth", home / "suites", home / "run/ood_results")


# ----------------------------------------------------------------------------------------------
# numbers
# ----------------------------------------------------------------------------------------------


def test_results_follow_from_the_predictions(single):
    results, lines = single
    assert len(lines) == sum(len(raw) for raw, *_ in SUITES.values())
    assert set(results["suites"]) == set(SUITES)
    for name, suite in results["suites"].items():
        rows = [line for line in lines if line["suite"] == name]
        for which, kept in (("all", rows), ("headline", [r for r in rows if r["in_headline"]])):
            k, n = sum(r["prediction"] == r["answer"] for r in kept), len(kept)
            low, high = metrics.wilson_interval(k, n)
            starts = [r["prediction"].startswith(r["answer"]) for r in kept]
            assert suite[which]["n"] == n
            assert suite[which]["exact_match"] == k / n
            assert suite[which]["exact_match_low"] == pytest.approx(low)
            assert suite[which]["exact_match_high"] == pytest.approx(high)
            assert suite[which]["oracle_length_exact_match"] == np.mean(starts)
            for metric in ("token_accuracy", "edit_distance"):
                assert suite[which][metric] == pytest.approx(np.mean([r[metric] for r in kept]))
            for kind, count in suite[which]["failures"].items():
                assert count == sum(r["kind"] == kind for r in kept)
    for category, stats in results["headline"].items():
        kept = [r for r in lines if r["category"] == category and r["in_headline"]]
        assert stats["n"] == len(kept)
        assert stats["exact_match"] == np.mean([r["correct"] for r in kept])
    assert results["headline"]["extrapolation"]["n"] == 4


def test_levels_and_tasks_count_headline_rows(single):
    suites = single[0]["suites"]
    by_level = suites["ood_compositional"]["by_level"]
    assert [(row["task"], row["level"], row["n"]) for row in by_level] == [("rev", "rev sort", 1)]
    rows = suites["ood_extrap_add"]["by_level"]
    assert [(row["task"], row["level"]) for row in rows] == [("add", 1), ("add", 4)]
    assert suites["ood_edge_cases"]["by_level"] == []
    assert {t: s["n"] for t, s in suites["ood_extrap_rev"]["by_task"].items()} == {"rev": 2}


def test_right_everywhere_scores_one_and_wrong_everywhere_zero(home, tmp_path, monkeypatch):
    cases = {
        "right": (lambda e, i, r: e.answer(i), 1.0, 1.0, "correct"),
        "long": (lambda e, i, r: e.answer(i) + " 1", 0.0, 1.0, "ran_on"),
        "short": (lambda e, i, r: e.answer(i)[:-1], 0.0, 0.0, "stopped_early"),
        "wrong": (lambda e, i, r: "K" * len(e.answer(i)), 0.0, 0.0, "wrong_content"),
    }
    for name, (make, exact, oracle, kind) in cases.items():
        monkeypatch.setattr(evaluate_ood, "generate", answering(make))
        results, lines = evaluate(home / "run", home / "suites", tmp_path / name)
        for stats in results["headline"].values():
            assert stats["exact_match"] == exact
            assert stats["oracle_length_exact_match"] == oracle
        assert {line["kind"] for line in lines} == {kind}
        assert {line["log_prob"] for line in lines} == {-0.5}


def test_predictions_equal_a_naive_loop(home, single):
    checkpoint = torch.load(home / "run/best_model.pth", weights_only=True)
    model = GPT(GPTConfig(**checkpoint["arch"]), [0]).eval()
    model.load_state_dict(checkpoint["model"])
    tokenizer = Tokenizer(checkpoint["vocab"])
    for line in single[1]:
        ids = tokenizer.encode(line["prompt"]).tolist()
        start, log_prob, entropies = len(ids), 0.0, []
        while len(ids) - start < len(line["answer"]) + RUN_ON:
            N = len(ids)
            batch = Batch(
                torch.tensor([ids]), torch.arange(N), [(1, N)], torch.tensor([[N - 1]]), None, None
            )  # fmt: skip
            with torch.inference_mode():
                scores = model(batch)[0, 0].double().log_softmax(0)
            ids.append(int(scores.argmax()))
            log_prob += float(scores.max())
            entropies.append(float(-(scores.exp() * scores).sum()))
            if ids[-1] == tokenizer.eos:
                break
        said = [i for i in ids[start:] if i != tokenizer.eos]
        assert line["prediction"] == tokenizer.decode(said)
        assert line["log_prob"] == pytest.approx(log_prob, abs=1e-3)
        assert line["entropy"] == pytest.approx(np.mean(entropies), abs=1e-4)
    assert len({line["prediction"] for line in single[1]}) > 3  # the model does vary


# ----------------------------------------------------------------------------------------------
# who is left out, and what was seen
# ----------------------------------------------------------------------------------------------


def test_untrained_tags_and_characters_stay_out_of_the_headline(single):
    results, lines = single
    why = {line["prompt"]: line["why_left_out"] for line in lines}
    assert why["[rev] [sort] 3 1 2 | "] is None  # several tags, all trained
    assert why["[sort] [max] 3 1 | "] == "untrained_tag"  # the second one is not
    assert why["[copy] 1 2 | "] == "untrained_tag"
    assert why["[add] 1 + 2€ | "] == "unknown_characters"
    suite = results["suites"]["ood_compositional"]
    assert suite["untrained_tags"] == ["copy", "max"]
    assert (suite["n"], suite["n_headline"], suite["left_out"]["untrained_tag"]) == (3, 1, 2)
    assert suite["share_untrained_tags"] == 2 / 3
    assert results["suites"]["ood_edge_cases"]["share_unk"] == 0.5
    # `[rev] 1 2 3 4 | 4 3 2 1` has 23 characters, the longest trained example 20.
    assert results["suites"]["ood_extrap_rev"]["share_beyond_training_length"] == 0.5


def test_the_control_counts_trained_sizes_and_lengths_only(home, tmp_path, monkeypatch, capsys):
    """A model right on trained sizes and wrong on all others has 100 % in the control."""
    raws = ["[add] 5 + 6 | 11", "[add] 30 + 41 | 71", "[add] 300 + 1 | 301", "[rev] 1 2 | 2 1"]
    raws += ["[rev] 111 222 333 | 333 222 111"]  # three items as in training, but 31 characters
    rows = {"level": [1, 2, 3, 2, 3], "category": "interpolation"}
    suites = write_suite(tmp_path / "s", raws, "ood_interpolation", **rows)
    write_suite(suites, ["[add] 999 + 999 | 1998", "[add] 1 + 0 | 1"], "ood_edge_cases")
    write_suite(suites, ["[add] 100 + 1 | 101", "[add] 1 + 9 | 10"], "ood_extrap_add")
    knowing = answering(lambda e, i, r: e.answer(i) if i < 2 else "K")
    monkeypatch.setattr(evaluate_ood, "generate", knowing)
    results, lines = evaluate(home / "run", suites, tmp_path / "out")
    control = results["suites"]["ood_interpolation"]
    assert (control["n"], control["n_headline"]) == (5, 2)
    assert control["left_out"]["outside_training_range"] == 3
    assert control["headline"]["exact_match"] == results["headline"]["interpolation"]["exact_match"]
    assert control["headline"]["exact_match"] == 1.0
    assert control["all"]["exact_match"] == 0.4
    assert [(r["task"], r["level"]) for r in control["by_level"]] == [("add", 1), ("add", 2)]
    inside = {line["prompt"]: line["in_training_range"] for line in lines}
    assert [inside[raw.split("| ")[0] + "| "] for raw in raws] == [True, True, False, False, False]
    # Elsewhere such rows count, and are labelled.
    assert results["suites"]["ood_edge_cases"]["n_headline"] == 2
    assert results["suites"]["ood_edge_cases"]["n_outside_training_range"] == 1
    said = capsys.readouterr().out
    assert "outside the sizes or lengths trained on, and counted: edge_cases 1 of 2\n" in said
    assert "within the sizes or lengths trained on, and counted: extrap_add 1 of 2\n" in said
    assert "left out 3 of 9 that are outside the sizes or lengths trained on, so are no con" in said
    assert "compare with 100.0%, the exact match on the 2 interpolation examples" in said


def test_the_control_leaves_out_what_was_trained_on_and_a_row_counts_once(home, tmp_path, capsys):
    known = [r for r in (home / "train.txt").read_text().splitlines() if r.startswith("[add]")][:2]
    new = ["[add] 5 + 6 | 11"] * 3 + ["[add] 6 + 5 | 11"]
    assert not set(new) & set((home / "train.txt").read_text().splitlines())
    suites = write_suite(tmp_path / "s", [*known, *new], "ood_interpolation")
    write_suite(suites, known, "ood_mine")
    results, lines = evaluate(home / "run", suites, tmp_path / "out")
    control = results["suites"]["ood_interpolation"]
    assert control["left_out"]["in_training_set"] == 2
    assert (control["n_rows"], control["n"], control["n_headline"]) == (6, 4, 2)
    assert control["headline"]["n"] == results["headline"]["interpolation"]["n"] == 2
    right = [line["correct"] for line in lines if line["prompt"] == "[add] 5 + 6 | "]
    assert right == [right[0]] * 3
    assert results["suites"]["ood_mine"]["n_headline"] == 2
    said = capsys.readouterr().out
    assert "left out 2 of 6 that stand in the training set, so are no control, in inter" in said
    assert "ood_mine: 100.0% are examples of the training set (not left out)" in said
    assert "ood_interpolation: " not in said


def test_chance_stands_beside_a_rate_near_it(home, tmp_path, monkeypatch, capsys):
    people = [f"[rel] {chr(65 + i)}>Z ? up 1 Z | {chr(65 + i)}" for i in range(25)]
    suites = write_suite(tmp_path / "s", people, "ood_rel")
    write_suite(suites, ["[add] 1 + 0 | 1", "[add] 9 + 2 | 11"], "ood_add")
    write_suite(suites, ["[rel] A>Z ? up 1 Z | A", "[mine] x | y"], "ood_mine")
    tags = ("add", "rel", "mine")
    model = save_model(tmp_path / "m.pth", home / "train.txt", tasks=(*TASKS, "minexy"), tags=tags)
    knowing = answering(lambda e, i, r: "A" if "rel" in e.prompt(i) else e.answer(i))
    monkeypatch.setattr(evaluate_ood, "generate", knowing)
    results, _ = evaluate(model, suites, tmp_path / "out")
    found = {name: suite["headline"]["chance"] for name, suite in results["suites"].items()}
    assert found == {"ood_rel": 1 / 26, "ood_add": (1 / 10 + 1 / 90) / 2, "ood_mine": None}
    table = [
        x for x in capsys.readouterr().out.splitlines() if x.startswith(("rel", "add", "mine"))
    ]
    said = {line.split()[0]: line.partition("chance is ")[2] for line in table}
    assert said == {"add": "", "mine": "", "rel": "3.8%"}


def test_what_lookup_answers_stands_beside_every_rate(home, tmp_path, capsys):
    """Trained on 1 + 2, 30 + 4 and one row each of rev and sort."""
    suites = write_suite(tmp_path / "s", ["[add] 1 + 02 | 3", "[add] 31 + 4 | 35"], "ood_add")
    write_suite(suites, ["[rev] 1 2 1 | 3 2 1", "[copy] 1 | 1"], "ood_odd")
    results, lines = evaluate(home / "run/best_model.pth", suites, tmp_path / "out")
    right = {line["prompt"]: line["lookup_right"] for line in lines}
    every = ["nearest", "suffix", "majority"]
    assert right == {
        "[add] 1 + 02 | ": every,
        "[add] 31 + 4 | ": [],
        "[rev] 1 2 1 | ": every,
        "[copy] 1 | ": [],  # a tag that is in no training row
    }
    assert results["training_set"]["lookup_rows"] == 4
    rates = {name: suite["headline"]["lookup"] for name, suite in results["suites"].items()}
    assert rates["ood_add"]["nearest"] == 0.5
    assert rates["ood_odd"] == {"n": 1, "nearest": 1, "suffix": 1, "majority": 1}
    assert results["suites"]["ood_odd"]["by_task"]["rev"]["lookup"] == rates["ood_odd"]
    table = {x.split()[0]: x for x in capsys.readouterr().out.splitlines() if x}
    assert "  lookup " in table["suite"]
    assert "  50.0% nearest " in table["add"]
    assert table["suite"].index("lookup") == table["add"].index("50.0% nearest")


def test_without_the_training_file_nothing_is_looked_up(home, tmp_path, capsys):
    (tmp_path / "train.txt").write_text("[add] 1 + 2 | 3\n")
    model = save_model(tmp_path / "m.pth", tmp_path / "train.txt")
    (tmp_path / "train.txt").unlink()
    results, lines = evaluate(model, home / "suites", tmp_path / "out")
    assert {line["lookup_right"] for line in lines} == {None}
    assert {suite["all"]["lookup"] for suite in results["suites"].values()} == {None}
    said = capsys.readouterr().out
    assert "the training set and the sizes in it are unknown" in said
    assert re.search(r"%\] +- +\d", said)


def test_the_seeds_of_a_panel_look_in_their_own_rows(home, tmp_path):
    rows = [f"[add] {10 + i} + {i} | {10 + 2 * i}" for i in range(40)]
    (tmp_path / "train.txt").write_text("\n".join(rows))
    for seed in (0, 1):
        path = save_model(
            tmp_path / f"run/seed_{seed}/best_model.pth", tmp_path / "train.txt", seed
        )
        torch.save({**torch.load(path, weights_only=True), "subset": 0.5}, path)
    suites = write_suite(tmp_path / "s", rows, "ood_train")
    results, lines = evaluate(tmp_path / "run", suites, tmp_path / "out")
    subsets = Subsets(load_examples(tmp_path / "train.txt", Tokenizer(vocabulary())), 0.5)
    for seed in (0, 1):
        found = {line["prompt"] for line in lines if line["seed"] == seed and line["lookup_right"]}
        own = {rows[i].split("| ")[0] + "| " for i in subsets.rows(seed)}
        assert own <= found
        assert len(found) < 40
    each = [read(tmp_path / f"run/seed_{s}/ood_results_s")[0]["headline"] for s in (0, 1)]
    rates = [headline["other"]["lookup"]["nearest"] for headline in each]
    assert all(0.5 <= rate < 1 for rate in rates)
    mean = results["headline"]["other"]["lookup"]["nearest"]
    assert mean == pytest.approx(sum(rates) / 2)


def test_results_of_another_checkpoint_or_other_suites_have_a_folder_of_their_own(home):
    name = evaluate_ood.results_folder_name
    standard, mine = evaluate_ood.STANDARD_SUITES, home / "suites"
    assert name(home / "run", standard) == "ood_results"
    assert name(home / "run/best_model.pth", standard) == "ood_results"
    assert name(home / "run/last.pth", standard) == "ood_results_last"
    assert name(home / "run", mine) == "ood_results_suites"
    assert name(home / "run/last.pth", mine) == "ood_results_last_suites"
    found = evaluate_ood.find_out_dir(home / "run/last.pth", None, mine)
    assert found == home / "run/ood_results_last_suites"


def test_results_say_which_checkpoint_and_drop_the_figures_of_earlier_ones(home, tmp_path, capsys):
    shutil.copy(home / "run/best_model.pth", tmp_path / "last.pth")
    out = tmp_path / "out"
    out.mkdir()
    for figure in ("failures.png", "ood_by_level.png", "mine.png"):
        (out / figure).write_text("")
    results, _ = evaluate(tmp_path / "last.pth", home / "suites", out)
    assert (results["checkpoint"], results["epoch"], results["step"]) == ("last.pth", 3, 9)
    digest = sha256_of(home / "suites/ood_extrap_rev.pkl")
    assert results["suites"]["ood_extrap_rev"]["sha256"] == digest
    assert "last.pth (epoch 3, step 9), trained on" in capsys.readouterr().out
    assert [path.name for path in out.glob("*.png")] == ["mine.png"]


def test_other_tasks_are_untrained_for_an_add_only_model(home, tmp_path, capsys):
    model = save_model(tmp_path / "m.pth", home / "train.txt", tasks=("add",), tags=("add",))
    suites = write_suite(tmp_path / "s", SUITES["ood_extrap_rev"][0], "ood_extrap_rev")
    results, lines = evaluate(model, suites, tmp_path / "out")
    suite = results["suites"]["ood_extrap_rev"]
    assert (suite["n_headline"], suite["headline"]) == (0, None)
    assert results["headline"] == {"extrapolation": None}
    assert suite["left_out"]["untrained_tag"] == 2
    assert suite["all"]["n"] == suite["by_task"]["rev"]["n"] == 2  # measured, but apart
    assert {line["why_left_out"] for line in lines} == {"untrained_tag"}
    said = capsys.readouterr().out
    assert "left out 2 of 2 that have a tag that was never trained ([rev]), in extrap_rev\n" in said
    assert "right answers end in the wrong place" not in said
    assert "no example counts, for the reasons above; --ood_dir reads a folder of your" in said
    *_, advice, page = said.splitlines()
    assert advice.endswith("such as .txt files with lines `[add] prompt | answer`")
    assert page.startswith("page: python ")
    assert page.endswith("out")


def test_files_of_the_earlier_program(home, tmp_path, capsys):
    suites = write_suite(tmp_path / "s", name="ood_extrap_rev", raws=ORIGIN.pop("raw"), **ORIGIN)
    plain, _ = evaluate(home / "run", suites, tmp_path / "plain")
    assert plain["headline"] == {"extrapolation": None}
    assert "--canonical_tags would read [reversing_extrap]" in capsys.readouterr().out
    mapped, lines = evaluate(home / "run", suites, tmp_path / "mapped", "--canonical_tags")
    suite = mapped["suites"]["ood_extrap_rev"]
    assert suite["mapped_tags"] == {"reversing_extrap": "rev"}
    assert mapped["canonical_tags"] is True
    assert (suite["n_headline"], suite["category"]) == (2, "extrapolation")
    assert lines[0]["prompt"] == "[rev] 24 16 2 | "
    assert "[reversing_extrap] was read as [rev]" in capsys.readouterr().out


def test_canonical_tags_leave_trained_tags_alone(home, tmp_path):
    tags = ("sort_asc", "rev")
    tasks = (*TASKS, "_x")  # characters for the vocabulary
    model = save_model(tmp_path / "m.pth", home / "train.txt", tasks=tasks, tags=tags)
    raws = [
        "[sort_asc] 2 1 | 1 2",
        "[sorting_ood] 2 1 | 1 2",
        "[reversing_ood] [sort_asc] 1 2 | 2 1",
    ]
    _, lines = evaluate(
        model, write_suite(tmp_path / "s", raws), tmp_path / "o", "--canonical_tags"
    )
    prompts = ["[sort_asc] 2 1 | ", "[sort] 2 1 | ", "[rev] [sort_asc] 1 2 | "]
    assert [line["prompt"] for line in lines] == prompts
    assert [line["in_headline"] for line in lines] == [True, False, True]


def test_a_suite_written_otherwise_than_the_training_set_is_told(home, tmp_path, capsys):
    raws = ["[rev] 3 1 2 | 2 1 3 ", "[rev] 3 1 3 | 3 1 3 "]
    suites = write_suite(tmp_path / "s", raws, name="ood_mine")
    results, _ = evaluate(home / "run", suites, tmp_path / "mine")
    (found,) = results["form_differences"]
    assert (found["file"], found["rows"], found["of"]) == ("ood_mine", 2, 2)
    said = capsys.readouterr().out
    assert "2 of 2 rows of ood_mine have white space at the end of the answer, none of" in said
    suites = write_suite(tmp_path / "r", raws, name="ood_robustness")  # it is meant so
    results, _ = evaluate(home / "run", suites, tmp_path / "robust")
    assert results["form_differences"] == []


def test_compositions_of_the_earlier_program_become_tags_in_sequence(home, tmp_path, capsys):
    raws = ["[sort_then_reverse] 3 1 2 | 3 2 1", "[copy_then_sort] 3 1 | 1 3"]
    raws += ["[sort_desc] 1 2 | 2 1", "[add_twice] 1 + 2 | 6", "[reverse_then_max] 1 2 | 2"]
    suites = write_suite(tmp_path / "s", raws, name="ood_compositional")
    plain, _ = evaluate(home / "run", suites, tmp_path / "plain")
    assert plain["suites"]["ood_compositional"]["n_headline"] == 0
    said = capsys.readouterr().out
    assert "--canonical_tags would read [sort_then_reverse] as the trained [rev] [sort]\n" in said
    assert "would read [add_twice]" not in said
    mapped, lines = evaluate(home / "run", suites, tmp_path / "mapped", "--canonical_tags")
    assert [line["prompt"] for line in lines] == [
        "[rev] [sort] 3 1 2 | ",  # the right-most applied first
        "[sort] [copy] 3 1 | ",
        "[sort_desc] 1 2 | ",
        "[add_twice] 1 + 2 | ",
        "[reverse_then_max] 1 2 | ",
    ]
    suite = mapped["suites"]["ood_compositional"]
    assert suite["mapped_tags"] == {"sort_then_reverse": "rev sort", "copy_then_sort": "sort copy"}
    # The tags are read anew: [copy] was not trained, [rev] and [sort] were.
    assert [line["in_headline"] for line in lines] == [True, False, False, False, False]
    assert suite["untrained_tags"] == ["add_twice", "copy", "reverse_then_max", "sort_desc"]
    assert "[copy_then_sort] was read as [sort] [copy]" in capsys.readouterr().out


def test_overlap_is_by_canonical_key(single, home):
    results, lines = single
    seen = {line["prompt"]: line["seen_in_training"] for line in lines}
    assert seen["[add] 2 + 01 | "] is True  # 1 + 2 was trained
    assert seen["[add] 5 + 6 | "] is False
    assert results["suites"]["ood_interpolation"]["overlap_with_training"] == 0.5
    assert results["training_range"] == {"add": [1, 2], "rev": [3, 3], "sort": [3, 3]}
    assert results["training_set"]["sha256"] == sha256_of(home / "train.txt")


def test_a_row_of_another_grammar_leaves_the_sizes_of_the_others():
    tokenizer = Tokenizer(build_tokenizer(("add", "rel"))["itos"].values())
    rows = ["[add] 41 + 12 | 53", "[add] 7 + 8 | 15", "[add] r + o | o"]
    examples = build_examples(rows, tokenizer, "rows")
    assert sizes_in(examples) == {"add": [1, 2]}


def test_overlap_is_unknown_without_the_training_set(home, tmp_path, capsys):
    train = tmp_path / "train.txt"
    train.write_text("\n".join(TRAIN))
    model = save_model(tmp_path / "m.pth", train)
    train.write_text(TRAIN[1])
    changed, lines = evaluate(model, home / "suites", tmp_path / "changed")
    assert "SHA-256 differs" in changed["notice"]
    assert changed["notice"] in capsys.readouterr().out
    assert changed["suites"]["ood_interpolation"]["overlap_with_training"] is None
    assert changed["training_range"] is changed["training_set"] is None
    assert lines[0]["seen_in_training"] is None
    train.unlink()
    gone, _ = evaluate(model, home / "suites", tmp_path / "gone")
    assert "is not there" in gone["notice"]
    told, _ = evaluate(
        model, home / "suites", tmp_path / "told", "--train_data", home / "train.txt"
    )
    assert told["suites"]["ood_interpolation"]["overlap_with_training"] == 0.5
    assert told["notice"] == ""


def test_learned_positions_limit_what_can_be_run(home, tmp_path):
    model = save_model(tmp_path / "m.pth", home / "train.txt", pos="learned", max_len=15 + RUN_ON)
    raws = ["[add] 1 + 2 | 3", "[add] 1 + 24 | 25", "[add] 1 + 2 | 34"]  # 15, 17 and 16 characters
    results, lines = evaluate(model, write_suite(tmp_path / "s", raws), tmp_path / "out")
    assert [line["why_left_out"] for line in lines] == [None, *["beyond_position_table"] * 2]
    assert lines[0]["prediction"] is not None
    assert lines[1]["prediction"] is lines[1]["correct"] is None
    suite = results["suites"]["suite"]
    assert (suite["n"], suite["all"]["n"], suite["n_headline"]) == (3, 1, 1)
    nothing, _ = evaluate(model, write_suite(tmp_path / "t", raws[1:]), tmp_path / "out2")
    assert nothing["suites"]["suite"]["all"] is nothing["headline"]["other"] is None


@pytest.mark.parametrize(
    ("given", "name", "category"),
    [
        ("ext", "ood_x", "extrapolation"),
        ("robustness", "ood_extrap_add", "robustness"),
        ("", "ood_novel_tasks", "novel_tasks"),
        ("", "ood_interp_add", "interpolation"),
        ("my kind", "mine", "my kind"),
        ("", "extra_spaces", "other"),
        ("", "int_max", "other"),
        ("", "system_prompts", "other"),
        ("", "ood_systematic_add", "systematic"),
        ("", "ood_edge_cases", "edge_cases"),
        ("", "mine", "other"),
    ],
)
def test_category(given, name, category):
    assert suites.category_of(given, name) == category


# ----------------------------------------------------------------------------------------------
# command line
# ----------------------------------------------------------------------------------------------


def test_the_command(home, tmp_path):
    command = [sys.executable, ROOT / "evaluate_ood.py", "--model", home / "run/best_model.pth"]
    command += ["--tokenizer", home / "tokenizer.json", "--ood_dir", home / "suites"]
    command += ["--device", "cpu", "--out_dir", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = next(i for i, line in enumerate(lines) if line.startswith("suite"))
    names = [line.split()[0] for line in lines[table + 1 : table + 6]]
    assert names == ["interpolation", "extrap_add", "extrap_rev", "compositional", "edge_cases"]
    assert {"ood_results.json", "predictions.jsonl", "ood_by_category.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    results = json.loads((tmp_path / "out/ood_results.json").read_text())
    assert results["headline"] == read(home / "run/ood_results")[0]["headline"]


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h, t: {"--model": h / "absent.pth"}, ["absent.pth", "does not exist"]),
        (lambda h, t: {"--model": h / "train.txt"}, ["train.txt", "is no checkpoint"]),
        (lambda h, t: {"--tokenizer": t / "add.json"}, ["add.json", "best_model.pth", "id"]),
        (lambda h, t: {"--ood_dir": t / "empty"}, ["empty", "no suite"]),
        (lambda h, t: {"--ood_dir": t / "gone"}, ["gone does not exist", "standard ones"]),
        (lambda h, t: {"--ood_dir": h / "train.txt"}, ["train.txt is a file"]),
        (lambda h, t: {"--out_dir": h / "train.txt" / "out"}, ["lies in one"]),
        (lambda h, t: {"--out_dir": t / ("x" * 300)}, ["cannot be written"]),
        (lambda h, t: {"--ood_dir": t / "bad"}, ["bad.pkl", "row 1"]),
        (lambda h, t: {"--ood_dir": t / "levels"}, ["levels.pkl", "level"]),
        (lambda h, t: {"--train_data": t / "none.pkl"}, ["none.pkl", "does not exist"]),
        (lambda h, t: {"--out_dir": h / "train.txt"}, ["is a file"]),
        (lambda h, t: {"--out_dir": h / "suites"}, ["folder of the suites"]),
        (lambda h, t: {"--device": "tpu9"}, ["tpu9"]),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(home, tmp_path, capsys, change, words):
    (tmp_path / "add.json").write_text(json.dumps(build_tokenizer(("add",))))
    (tmp_path / "empty").mkdir()
    write_suite(tmp_path / "bad", ["[add] 1 + 1 | 2", "[add] 1 + 1 = 2"], "bad")
    write_suite(tmp_path / "levels", ["[add] 1 + 1 | 2"] * 2, "levels", level=[1])
    flags = {"--model": home / "run", "--ood_dir": home / "suites", "--out_dir": tmp_path / "out"}
    flags |= {"--device": "cpu", **change(home, tmp_path)}
    before = {p: p.stat().st_mtime_ns for p in [*home.rglob("*"), *tmp_path.rglob("*")]}
    assert evaluate_ood.main([str(part) for flag in flags.items() for part in flag]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert {p: p.stat().st_mtime_ns for p in [*home.rglob("*"), *tmp_path.rglob("*")]} == before


def test_unwritable_folders_are_told_before_anything_is_run(home, tmp_path, monkeypatch, capsys):
    ran = mock.Mock(side_effect=AssertionError("an example was run"))
    monkeypatch.setattr(evaluate_ood, "generate", ran)
    shutil.copytree(home / "seeds", tmp_path / "seeds")
    taken = tmp_path / "seeds/seed_1/ood_results_suites"
    shutil.rmtree(taken, ignore_errors=True)
    taken.write_text("")  # the seeds' own folders are written too
    argv = ["--model", tmp_path / "seeds", "--ood_dir", home / "suites", "--device", "cpu"]
    argv += ["--out_dir", tmp_path / "out"]
    assert evaluate_ood.main(list(map(str, argv))) == 2
    assert f"{taken} is a file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_the_earlier_results_whole(home, tmp_path, monkeypatch, capsys):
    argv = ["--model", home / "run", "--ood_dir", home / "suites", "--out_dir", tmp_path / "out"]
    argv = [*map(str, argv), "--device", "cpu"]
    monkeypatch.setattr("plots.write_figures", lambda *args: [])
    assert evaluate_ood.main(argv) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    right = answering(lambda e, i, r: e.answer(i))  # other results, as another model would have
    monkeypatch.setattr(evaluate_ood, "generate", right)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("os.fsync", mock.Mock(side_effect=full))
    capsys.readouterr()
    assert evaluate_ood.main(argv) == 5
    path = tmp_path / "out" / "predictions.jsonl"
    assert capsys.readouterr().err == f"error: {path}: No space left on device\n"
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_levels_of_all_kinds_are_sorted_and_counted(home, tmp_path):
    raws = [f"[add] {i} + 1 | {i + 1}" for i in range(6)]
    levels = ["b", 2, None, 1.5, "a", 2]
    results, lines = evaluate(
        home / "run", write_suite(tmp_path / "s", raws, level=levels), tmp_path / "out"
    )
    rows = results["suites"]["suite"]["by_level"]
    assert [(row["level"], row["n"]) for row in rows] == [(1.5, 1), (2, 2), ("a", 1), ("b", 1)]
    numbers = [None if isinstance(level, str) else level for level in levels]
    assert [line["level"] for line in lines] == numbers
    texts = [level if isinstance(level, str) else None for level in levels]
    assert [line["level_text"] for line in lines] == texts


def test_exit_code_and_silence(tmp_path):
    command = [sys.executable, ROOT / "evaluate_ood.py", "--model", tmp_path / "none.pth"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the checkpoint")
    assert not list(tmp_path.iterdir())


def test_standard_suites_are_made_when_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suites, "make_missing", lambda path: make_missing(path, tmp_path))
    folder = tmp_path / "ood_data_complete"
    found = suites.find_suites(folder)
    assert [path.stem for path in found] == sorted(SUITES_MADE)
    assert capsys.readouterr().out == f"made the standard suites in {folder}\n"
    assert suites.find_suites(folder) == found
    assert capsys.readouterr().out == ""


def test_every_flag_is_read():
    source = (ROOT / "evaluate_ood.py").read_text()
    flags = vars(evaluate_ood.build_parser().parse_args(["--model", "x"]))
    assert all(f"args.{name}" in source for name in flags)
