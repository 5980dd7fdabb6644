"""evaluate_ood.py on folders of seeds: means, what belongs together, what is passed over."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

import evaluate_ood
import metrics
from ood_models import answering, evaluate, make_home, read, save_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("ood"))


def test_seeds_are_stacked_and_averaged(home, tmp_path, monkeypatch):
    together, lines = evaluate(home / "seeds", home / "suites", tmp_path / "out")
    assert together["seeds"] == [0, 1, 2]
    for seed in range(3):
        path = home / f"seeds/seed_{seed}/best_model.pth"
        alone, alone_lines = evaluate(path, home / "suites", tmp_path / f"alone{seed}")
        stacked, stacked_lines = read(path.parent / "ood_results_suites")
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
    assert "outcomes" not in (home / "seeds/seed_0/ood_results_suites/ood_results.json").read_text()
    assert stats["failures"] == {"stopped_early": 0, "ran_on": 0, "wrong_content": 1}
    each = [read(home / f"seeds/seed_{s}/ood_results_suites")[0]["suites"] for s in range(3)]
    for name, suite in together["suites"].items():
        for metric in ("exact_match", "token_accuracy", "edit_distance"):
            mean = np.mean([suites[name]["headline"][metric] for suites in each])
            assert suite["headline"][metric] == pytest.approx(mean)
        for i, row in enumerate(suite["by_level"]):
            mean = np.mean([suites[name]["by_level"][i]["exact_match"] for suites in each])
            assert row["exact_match"] == pytest.approx(mean)


def run_main(model, home):
    return evaluate_ood.main(
        ["--model", str(model), "--ood_dir", str(home / "suites"), "--device", "cpu"]
    )


@pytest.mark.parametrize(
    ("seed", "train", "more", "said"),
    [
        (1, 0, {"tags": ("add",)}, "seed_1/best_model.pth differs from"),
        (0, 0, {}, "are both of seed 0, so a mean would count it twice"),
        (1, 1, {}, "was trained on another training set than"),
    ],
)
def test_seeds_must_belong_together(home, tmp_path, capsys, seed, train, more, said):
    (tmp_path / "other.txt").write_text("[add] 1 + 1 | 2\n[rev] 1 2 | 2 1\n[sort] 1 2 | 1 2\n")
    sets = [home / "train.txt", tmp_path / "other.txt"]
    save_model(tmp_path / "run/seed_0/best_model.pth", sets[0])
    save_model(tmp_path / "run/seed_1/best_model.pth", sets[train], seed, **more)
    assert run_main(tmp_path / "run", home) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("run/ood_results*"))


def test_seeds_of_other_arguments_are_no_seeds_of_one_run(home, tmp_path, capsys):
    for seed, lr in enumerate((1e-4, 1e-3)):
        save_model(tmp_path / f"seed_{seed}/best_model.pth", home / "train.txt", seed)
        arguments = {"lr": lr, "seed": 0, "out_dir": f"{seed}", "tokenizer": None}
        config = {"seed": seed, "arguments": arguments}
        (tmp_path / f"seed_{seed}/config.json").write_text(json.dumps(config))
    assert run_main(tmp_path, home) == 2
    said = f"{tmp_path}/seed_1 differs from {tmp_path}/seed_0 in --lr (0.001 and 0.0001), so they"
    assert said in capsys.readouterr().err


def spoil(path, value):
    """Make one weight of a checkpoint `value`."""
    checkpoint = torch.load(path, weights_only=True)
    name = next(iter(checkpoint["model"]))
    checkpoint["model"][name][...] = value
    torch.save(checkpoint, path)


@pytest.mark.parametrize("how", ["no best model", "weights not finite", "scores overflow"])
def test_a_seed_without_a_usable_model_is_passed_over(home, tmp_path, capsys, how):
    earlier = shutil.ignore_patterns("ood_results*")
    shutil.copytree(home / "seeds", tmp_path / "seeds", ignore=earlier)
    bad = tmp_path / "seeds/seed_1/best_model.pth"
    if how == "no best model":
        bad.rename(bad.with_name("last.pth"))  # it diverged before its first validation
    else:
        spoil(bad, math.nan if how == "weights not finite" else 1e38)
    together, lines = evaluate(tmp_path / "seeds", home / "suites", tmp_path / "out")
    assert together["seeds"] == [0, 2]
    assert together["passed_over"] == [str(bad)]
    assert {line["seed"] for line in lines} == {0, 2}
    assert len(together["headline"]["extrapolation"]["values"]) == 2
    said = capsys.readouterr().out
    assert f"note: {bad} " in said
    assert "passed over" in said
    assert "means over seeds 0, 2;" in said
    assert not list((tmp_path / "seeds/seed_1").glob("ood_results*/*"))
    assert read(tmp_path / "seeds/seed_2/ood_results_suites")[0]["seed"] == 2


@pytest.mark.parametrize("value", [math.nan, 1e38])
def test_no_usable_model_at_all_is_one_sentence(home, tmp_path, capsys, value):
    earlier = shutil.ignore_patterns("ood_results*")
    shutil.copytree(home / "seeds", tmp_path / "seeds", ignore=earlier)
    for path in tmp_path.glob("seeds/seed_*/best_model.pth"):
        spoil(path, value)
    for model in (tmp_path / "seeds", tmp_path / "seeds/seed_0"):
        assert run_main(model, home) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search("(its|their) training had diverged", error)
    assert not list(tmp_path.glob("**/ood_results.json"))


def test_equal_seeds_are_as_sure_as_their_examples(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_ood, "generate", answering(lambda e, i, r: e.answer(i)))
    results, _ = evaluate(home / "seeds", home / "suites", tmp_path / "out")
    stats = results["headline"]["extrapolation"]
    low, _ = metrics.wilson_interval(4, 4)
    assert (stats["exact_match_low"], stats["exact_match_high"]) == (pytest.approx(low), 1.0)
    said = capsys.readouterr().out
    low, _ = metrics.wilson_interval(2, 2)  # the table is by suite
    assert said.count(f"100.0% [{low:.1%}, 100.0%]") == 2
    control = results["suites"]["ood_interpolation"]  # one of its two was trained on
    assert (control["left_out"]["in_training_set"], control["n_headline"]) == (1, 1)
    assert said.count(f"100.0% [{metrics.wilson_interval(1, 1)[0]:.1%}, 100.0%]") >= 1
    assert "[100.0%" not in said


def test_merged_intervals_tell_seeds_that_err_alike_from_seeds_that_err_apart():
    def result(right):
        rows = [
            {"task": "add", "prediction": p, "answer": "1", "lookup_right": None} for p in right
        ]
        return {"by_task": {"add": evaluate_ood.stats(rows)}, "overlap": 0.25, "all": None}

    half = "1" * 200 + "0" * 200
    alike = evaluate_ood.merge_seeds([result(half), result(half)])["by_task"]["add"]
    apart = evaluate_ood.merge_seeds([result(half), result(half[::-1])])["by_task"]["add"]
    wilson = pytest.approx(metrics.wilson_interval(200, 400))
    assert (alike["exact_match_low"], alike["exact_match_high"]) == wilson
    assert apart["exact_match_low"] > 0.49
    one = evaluate_ood.merge_seeds([result(half)])
    assert one["overlap"] == 0.25
    beside = {"chance": 0.1, "lookup": None}
    assert one["by_task"]["add"] == {**metrics.summarize(list(half), ["1"] * 400), **beside}


def test_a_folder_of_seeds_with_a_broken_config_is_told(home, tmp_path, capsys):
    (tmp_path / "seed_0").mkdir()
    (tmp_path / "seed_0/metrics.jsonl").write_text("")
    (tmp_path / "config.json").write_text('{"seeds": "0-3"}')
    assert evaluate_ood.main(["--model", str(tmp_path), "--ood_dir", str(home / "suites")]) == 2
    assert "config.json: seeds should be a list, not '0-3'" in capsys.readouterr().err
