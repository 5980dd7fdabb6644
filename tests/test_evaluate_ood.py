"""evaluate_ood.py on tiny models: every number recomputed, who is left out, overlap, errors."""

import errno
import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import evaluate_ood
import metrics
from data.formats import Tokenizer
from data.generate import SUITES as SUITES_MADE
from data.generate import build_tokenizer, make_missing
from runtime.files import sha256_of
from train_minigpt_4070 import GPT, RUN_ON, Batch, Generation, GPTConfig

ROOT = Path(__file__).resolve().parents[1]
ORIGIN = {  # as ood_extrap_rev.pkl of the earlier program
    "raw": ["[reversing_extrap] 24 16 2 | 2 16 24", "[reversing_extrap] 4 15 16 | 16 15 4"],
    "category": "ext",
    "count": 2,
    "encoded": [],
    "labels": [],
}
TASKS = ("copy", "rev", "add", "sort", "rel")
TRAIN = ["[add] 1 + 2 | 3", "[add] 30 + 4 | 34", "[rev] 1 2 3 | 3 2 1", "[sort] 3 1 2 | 1 2 3"]
SUITES = {  # name -> (rows, levels, category)
    "ood_extrap_add": (["[add] 1000 + 2 | 1002", "[add] 7 + 8 | 15"], [4, 1], "extrapolation"),
    "ood_extrap_rev": (["[rev] 1 2 3 4 | 4 3 2 1", "[rev] 5 6 | 6 5"], [4, 2], "extrapolation"),
    # Once more as in training (2 + 01 is 1 + 2), and once new.
    "ood_interpolation": (["[add] 2 + 01 | 3", "[add] 5 + 6 | 11"], [1, 1], "interpolation"),
    "ood_compositional": (
        ["[rev] [sort] 3 1 2 | 3 2 1", "[sort] [max] 3 1 | 3", "[copy] 1 2 | 1 2"],
        ["rev sort", "sort max", "copy"],
        "compositional",
    ),
    "ood_edge_cases": (["[add] 1 + 2€ | 3", "[add] 1 + 0 | 1"], [], "edge_cases"),
}


def vocabulary(tasks=TASKS):
    return list(build_tokenizer(tasks)["itos"].values())


def save_model(path, train, seed=0, tasks=TASKS, tags=("add", "rev", "sort"), **arch):
    """An untrained checkpoint; the weights are large, so that its predictions vary."""
    vocab = vocabulary(tasks)
    config = GPTConfig(**{**dict.fromkeys(("n_layers", "n_heads"), 2), "d_model": 16, "d_ff": 32}
                       | {"vocab_size": len(vocab), "max_len": 20, **arch})  # fmt: skip
    model = GPT(config, [seed])
    content = {"format": 1, "arch": asdict(config), "vocab": vocab, "seed": seed, "epoch": 3}
    content["model"] = {name: p.detach() * 12 for name, p in model.named_parameters()}
    content |= {"trained_tags": list(tags), "trained_length": 20, "step": 9}
    content["data"] = {"train": {"path": str(train), "sha256": sha256_of(train)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Training set, suites, a model in run/, three seeds in seeds/."""
    home = tmp_path_factory.mktemp("ood")
    (home / "train.txt").write_text("\n".join(TRAIN))
    (home / "suites").mkdir()
    for name, (raw, level, category) in SUITES.items():
        content = {"raw": raw, "level": level, "category": category, "encoded": []}
        (home / "suites" / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=4))
    (home / "suites" / "dataset_stats.json").write_text("{}")
    (home / "tokenizer.json").write_text(json.dumps(build_tokenizer(TASKS)))
    save_model(home / "run/best_model.pth", home / "train.txt")
    for seed in range(3):
        save_model(home / f"seeds/seed_{seed}/best_model.pth", home / "train.txt", seed)
    return home


def evaluate(model, ood_dir, out_dir, *more):
    """Run it, but for the figures, from its own arguments; returns what `read` does."""
    argv = ["--model", model, "--ood_dir", ood_dir, "--out_dir", out_dir, "--device", "cpu", *more]
    args = evaluate_ood.build_parser().parse_args([str(a) for a in argv])
    with mock.patch("plots.write_figures", return_value=[]):
        evaluate_ood.evaluate(args)
    return read(out_dir)


def read(out_dir):
    """(results, lines of predictions.jsonl)."""
    lines = (out_dir / "predictions.jsonl").read_text().splitlines()
    results = json.loads((out_dir / "ood_results.json").read_text())
    return results, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def single(home):
    return evaluate(home / "run/best_model.pth", home / "suites", home / "run/ood_results")


def write_suite(folder, raws, name="suite", **more):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"raw": raws, **more}
    (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=4))
    return folder


def answering(make):
    """A stand-in for generate: replica r answers make(examples, row, r)."""
    tokenizer = Tokenizer(vocabulary())

    def generate(model, examples, rows, eos, device):
        ids = [
            [tokenizer.encode(make(examples, i, r)).tolist() for i in row]
            for r, row in enumerate(rows)
        ]
        return Generation(ids, np.full(rows.shape, -0.5), np.full(rows.shape, 0.25))

    return generate


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


def test_the_control_counts_trained_sizes_only():
    rows = [(1, 10, 0.9), (2, 30, 0.5), (3, 60, 0.0)]
    by_level = [{"task": "add", "level": v, "n": n, "exact_match": e} for v, n, e in rows]
    suite = {"category": "interpolation", "headline": {"n": 100}, "by_level": by_level}
    results = {"suites": {"ood_interpolation": suite}, "training_range": {"add": [1, 2]}}
    assert evaluate_ood.control(results) == (24.0, 40)
    assert evaluate_ood.control(results | {"training_range": None}) == (0.0, 0)


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
        ("", "mine", "other"),
    ],
)
def test_category(given, name, category):
    assert evaluate_ood.category_of(given, name) == category


# ----------------------------------------------------------------------------------------------
# seeds
# ----------------------------------------------------------------------------------------------


def test_seeds_are_stacked_and_averaged(home, tmp_path, monkeypatch):
    together, lines = evaluate(home / "seeds", home / "suites", tmp_path / "out")
    assert together["seeds"] == [0, 1, 2]
    for seed in range(3):
        path = home / f"seeds/seed_{seed}/best_model.pth"
        alone, alone_lines = evaluate(path, home / "suites", tmp_path / f"alone{seed}")
        stacked, stacked_lines = read(path.parent / "ood_results")
        said = [line["prediction"] for line in alone_lines]
        assert [line["prediction"] for line in stacked_lines] == said
        assert [line["prediction"] for line in lines if line["seed"] == seed] == said
        assert stacked["headline"]["extrapolation"] == alone["headline"]["extrapolation"]
    # Seed r knows the rows whose answer has more than r + 1 characters.
    knowing = answering(lambda e, i, r: e.answer(i) if len(e.answer(i)) > r + 1 else "K")
    monkeypatch.setattr(evaluate_ood, "generate", knowing)
    together, _ = evaluate(home / "seeds", home / "suites", tmp_path / "out")
    stats = together["headline"]["extrapolation"]  # answers of 4, 2, 7 and 3 characters
    assert stats["values"] == [1.0, 0.75, 0.5]
    assert (stats["n"], stats["exact_match"]) == (4, 0.75)
    rights = ("1111", "1011", "1010")
    rows = [{"exact_match": own.count("1") / 4, "n": 4, "outcomes": own} for own in rights]
    means = metrics.over_seeds(rows)
    assert (stats["exact_match_low"], stats["exact_match_high"]) == (means["low"], means["high"])
    assert "outcomes" not in (tmp_path / "out/ood_results.json").read_text()
    assert "outcomes" not in (home / "seeds/seed_0/ood_results/ood_results.json").read_text()
    assert stats["failures"] == {"stopped_early": 0, "ran_on": 0, "wrong_content": 1}
    each = [read(home / f"seeds/seed_{s}/ood_results")[0]["suites"] for s in range(3)]
    for name, suite in together["suites"].items():
        for metric in ("exact_match", "token_accuracy", "edit_distance"):
            mean = np.mean([suites[name]["headline"][metric] for suites in each])
            assert suite["headline"][metric] == pytest.approx(mean)
        for i, row in enumerate(suite["by_level"]):
            mean = np.mean([suites[name]["by_level"][i]["exact_match"] for suites in each])
            assert row["exact_match"] == pytest.approx(mean)


def test_seeds_must_belong_together(home, tmp_path, capsys):
    save_model(tmp_path / "seed_0/best_model.pth", home / "train.txt")
    save_model(tmp_path / "seed_1/best_model.pth", home / "train.txt", tags=("add",))
    argv = ["--model", str(tmp_path), "--ood_dir", str(home / "suites"), "--device", "cpu"]
    assert evaluate_ood.main(argv) == 2
    assert "differs from" in capsys.readouterr().err
    (tmp_path / "seed_1/best_model.pth").unlink()  # a seed is not dropped in silence
    assert evaluate_ood.main(argv) == 2
    assert "seed_1" in capsys.readouterr().err
    assert not (tmp_path / "ood_results").exists()


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
    taken = tmp_path / "seeds/seed_1/ood_results"
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


def test_equal_seeds_are_as_sure_as_their_examples(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_ood, "generate", answering(lambda e, i, r: e.answer(i)))
    results, _ = evaluate(home / "seeds", home / "suites", tmp_path / "out")
    stats = results["headline"]["extrapolation"]
    low, _ = metrics.wilson_interval(4, 4)
    assert (stats["exact_match_low"], stats["exact_match_high"]) == (pytest.approx(low), 1.0)
    said = capsys.readouterr().out
    low, _ = metrics.wilson_interval(2, 2)  # the table is by suite
    assert said.count(f"100.0% [{low:.1%}, 100.0%]") == 3
    assert "[100.0%" not in said


def test_over_seeds_tells_seeds_that_err_alike_from_seeds_that_err_apart():
    def result(right):
        rows = [{"prediction": p, "answer": "1"} for p in right]
        return {"by_task": {"add": evaluate_ood.stats(rows)}, "overlap": 0.25, "all": None}

    half = "1" * 200 + "0" * 200
    alike = evaluate_ood.over_seeds([result(half), result(half)])["by_task"]["add"]
    apart = evaluate_ood.over_seeds([result(half), result(half[::-1])])["by_task"]["add"]
    wilson = pytest.approx(metrics.wilson_interval(200, 400))
    assert (alike["exact_match_low"], alike["exact_match_high"]) == wilson
    assert apart["exact_match_low"] > 0.49
    one = evaluate_ood.over_seeds([result(half)])
    assert one["overlap"] == 0.25
    assert one["by_task"]["add"] == metrics.summarize(list(half), ["1"] * 400)


def test_a_folder_of_seeds_with_a_broken_config_is_told(home, tmp_path, capsys):
    (tmp_path / "seed_0").mkdir()
    (tmp_path / "config.json").write_text('{"seeds": "0-3"}')
    assert evaluate_ood.main(["--model", str(tmp_path), "--ood_dir", str(home / "suites")]) == 2
    assert "config.json: seeds should be a list, not '0-3'" in capsys.readouterr().err


def test_levels_of_all_kinds_are_sorted_and_counted(home, tmp_path):
    raws = [f"[add] {i} + 1 | {i + 1}" for i in range(6)]
    levels = ["b", 2, None, 1.5, "a", 2]
    results, lines = evaluate(
        home / "run", write_suite(tmp_path / "s", raws, level=levels), tmp_path / "out"
    )
    rows = results["suites"]["suite"]["by_level"]
    assert [(row["level"], row["n"]) for row in rows] == [(1.5, 1), (2, 2), ("a", 1), ("b", 1)]
    assert [line["level"] for line in lines] == levels


def test_exit_code_and_silence(tmp_path):
    command = [sys.executable, ROOT / "evaluate_ood.py", "--model", tmp_path / "none.pth"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the checkpoint")
    assert not list(tmp_path.iterdir())


def test_standard_suites_are_made_when_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_ood, "make_missing", lambda path: make_missing(path, tmp_path))
    folder = tmp_path / "ood_data_complete"
    found = evaluate_ood.find_suites(folder)
    assert [path.stem for path in found] == sorted(SUITES_MADE)
    assert capsys.readouterr().out == f"made the standard suites in {folder}\n"
    assert evaluate_ood.find_suites(folder) == found
    assert capsys.readouterr().out == ""


def test_every_flag_is_read():
    source = (ROOT / "evaluate_ood.py").read_text()
    flags = vars(evaluate_ood.build_parser().parse_args(["--model", "x"]))
    assert all(f"args.{name}" in source for name in flags)
