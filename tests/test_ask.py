"""evaluate_ood.py --prompt: probabilities by a naive loop, training rows, terminal and pipe."""

import io
import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

import evaluate_ood
from data.formats import Tokenizer, load_examples
from data.subsets import Subsets, canary_counts
from evaluation import ask
from ood_models import evaluate, make_home, save_model, vocabulary, write_suite
from reference import reference_logits
from train_minigpt_4070 import RUN_ON, load_model

ROOT = Path(evaluate_ood.__file__).parent
EOS = "<eos>"
ROWS = [f"[add] {a} + {a + b} | {2 * a + b}" for a in range(1, 9) for b in range(3)]
ROWS += [*ROWS[:4], ROWS[0], "[add] 9 + 1 | 10", "[add] 1 + 9 | 11"]  # the last contradicts
CANARIES = [
    {"task": "add", "prompt": "5 + 2", "answer": "6", "true_answer": "7", "n_legal": 10},
    {"task": "add", "prompt": "6 + 1", "answer": "3", "true_answer": "7", "n_legal": 10},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("ask"))


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """Six untrained seeds as --subset 0.5 --canaries 2 would leave them."""
    folder = tmp_path_factory.mktemp("panel")
    train = folder / "train.txt"
    train.write_text("\n".join(ROWS))
    seeds = list(range(6))
    for seed in seeds:
        path = save_model(folder / f"run/seed_{seed}/last.pth", train, seed, tags=("add",))
        torch.save({**torch.load(path, weights_only=True), "subset": 0.5}, path)
    config = {"seeds": seeds, "arguments": {"subset": 0.5}}
    (folder / "run/config.json").write_text(json.dumps(config))
    lines = "".join(json.dumps(canary) + "\n" for canary in CANARIES)
    (folder / "run/canaries.jsonl").write_text(lines)
    for seed in seeds:
        own = {"seed": seed, "seeds": [seed], "arguments": {"subset": 0.5}}
        (folder / f"run/seed_{seed}/config.json").write_text(json.dumps(own))
    return folder / "run"


def run(model, prompt, *more):
    return evaluate_ood.main(
        ["--model", str(model), "--prompt", prompt, "--device", "cpu", *map(str, more)]
    )


def asked(capsys, model, prompt, *more):
    """The object of --json, which is all that stdout has."""
    assert run(model, prompt, "--json", *more) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ----------------------------------------------------------------------------------------------
# the answer
# ----------------------------------------------------------------------------------------------


def naive(model, tokenizer, prompt, at_most):
    """[(character, probability, runner-up, its probability)] by the reference model."""
    ids, found = tokenizer.encode(f"{prompt} | ").tolist(), []
    while len(found) < at_most:
        shares, order = reference_logits(model, 0, ids)[-1].softmax(-1).sort(descending=True)
        names = [EOS if i == tokenizer.eos else tokenizer.decode([i]) for i in order[:2].tolist()]
        found.append((names[0], float(shares[0]), names[1], float(shares[1])))
        ids.append(int(order[0]))
        if ids[-1] == tokenizer.eos:
            break
    return found


@pytest.mark.parametrize("pos", ["rope", "learned", "alibi", "nope"])
def test_probabilities_are_those_of_a_naive_loop(home, tmp_path, capsys, pos):
    path = save_model(tmp_path / "best_model.pth", home / "train.txt", pos=pos, max_len=40)
    model, tokenizer, _ = load_model(path, torch.device("cpu"))
    for prompt, answer in (("[add] 5 + 6", "11"), ("[rev] 1 2 3", "3 2 1"), ("[sort] 7 1", "1 7")):
        said = asked(capsys, path, prompt)
        with torch.no_grad():
            expected = naive(model, tokenizer, prompt, len(answer) + RUN_ON)
        (one,) = said["models"]
        assert (said["prompt"], said["answer"], said["answer_by"]) == (prompt, answer, "rule")
        assert [(c["character"], c["runner_up"]) for c in one["characters"]] == [
            (character, other) for character, _, other, _ in expected
        ]
        for found, (_, p, _, q) in zip(one["characters"], expected, strict=True):
            assert found["probability"] == pytest.approx(p, abs=1e-4)
            assert found["runner_up_probability"] == pytest.approx(q, abs=1e-4)
        text = "".join(character for character, *_ in expected if character != EOS)
        assert one["prediction"] == text
        assert one["ended"] is (expected[-1][0] == EOS)
        assert one["correct"] is (text == answer and one["ended"])
        assert one["probability"] == pytest.approx(math.prod(p for _, p, *_ in expected), abs=1e-4)
        ids = tokenizer.encode(f"{prompt} | {answer}").tolist()
        with torch.no_grad():
            logits = reference_logits(model, 0, ids)[-len(answer) - 1 :].log_softmax(-1)
        targets = torch.tensor([*ids[-len(answer) :], tokenizer.eos])
        nats = logits[torch.arange(len(targets)), targets].sum()
        assert one["answer_probability"] == pytest.approx(float(nats.exp()), rel=1e-3)


def test_it_predicts_what_evaluation_does(home, tmp_path, capsys):
    raws = ["[add] 7 + 12 | 19", "[rev] 4 5 | 5 4", "[sort] 3 1 | 1 3", "[add] 1 + 2 | 3"]
    _, lines = evaluate(home / "seeds", write_suite(tmp_path / "s", raws), tmp_path / "out")
    capsys.readouterr()
    for raw in raws:
        prompt = raw.rpartition(" | ")[0]
        models = asked(capsys, home / "seeds", prompt)["models"]
        expected = [line for line in lines if line["prompt"] == f"{prompt} | "]
        assert [m["seed"] for m in models] == [line["seed"] for line in expected] == [0, 1, 2]
        assert [m["prediction"] for m in models] == [line["prediction"] for line in expected]
        for model, line in zip(models, expected, strict=True):
            assert math.log(model["probability"]) == pytest.approx(line["log_prob"], abs=1e-3)
            assert model["correct"] is line["correct"]


def test_an_answer_may_be_given_and_a_tag_left_out(home, tmp_path, capsys):
    said = asked(capsys, home / "run", "[add] 5 + 6 | 12")
    assert (said["prompt"], said["answer"], said["answer_by"]) == ("[add] 5 + 6", "12", "given")
    assert said["models"][0]["correct"] is False
    for bar in ("[add] 5 + 6 | ", "[add] 5 + 6 |"):  # none given after it
        assert asked(capsys, home / "run", bar)["answer"] == "11"
    path = save_model(tmp_path / "best_model.pth", home / "train.txt", tags=("add",))
    assert asked(capsys, path, "5 + 6")["prompt"] == "[add] 5 + 6"
    assert run(home / "run", "5 + 6") == 2  # trained on three tags
    error = capsys.readouterr().err
    assert error.startswith("error: '5 + 6' is no prompt; a right one is `[add] 12 + 5`")
    assert error.count("\n") == 1


def test_without_a_rule_nothing_is_called_right(home, capsys):
    said = asked(capsys, home / "run", "[add] one and two")
    assert (said["answer"], said["answer_by"]) == (None, None)
    (one,) = said["models"]
    assert (one["correct"], one["answer_probability"], one["trained_rows"]) == (None, None, None)
    assert said["training"]["rows"] is None
    longest = 20 - len("[add] one and two | ") + RUN_ON
    assert len(one["characters"]) <= max(longest, RUN_ON)


# ----------------------------------------------------------------------------------------------
# what was trained on
# ----------------------------------------------------------------------------------------------


def test_training_rows_are_found_by_key_and_answer(home, capsys):
    training = asked(capsys, home / "run", "[add] 02 + 1")["training"]
    assert (training["path"], training["n_rows"]) == (str(home / "train.txt"), 4)
    first = {"answer": "3", "rows": 1, "first": "[add] 1 + 2 | 3", "canary": False}
    assert (training["rows"], training["answers"]) == (1, [first])
    # Another writing of the example itself is no neighbour.
    assert training["nearest"] == {
        "row": "[add] 30 + 4 | 34",
        "distance": 3,  # 02 + 1, 302 + 1, 30 + 1, 30 + 4
        "rows": 1,
        "n_searched": 1,
    }
    unseen = asked(capsys, home / "run", "[add] 1 + 3")["training"]
    assert (unseen["rows"], unseen["answers"]) == (0, [])
    assert (unseen["nearest"]["row"], unseen["nearest"]["distance"]) == ("[add] 1 + 2 | 3", 1)
    assert unseen["nearest"]["n_searched"] == 2
    assert asked(capsys, home / "run", "[copy] 1")["training"]["nearest"] is None


def test_repeats_and_contradictions_are_counted(panel, capsys):
    said = asked(capsys, panel / "seed_0/last.pth", "[add] 1 + 1")
    assert (said["training"]["rows"], said["panel"]) == (3, None)
    said = asked(capsys, panel / "seed_0/last.pth", "[add] 9 + 1")
    found = {one["answer"]: one["rows"] for one in said["training"]["answers"]}
    assert (said["training"]["rows"], found) == (1, {"10": 1, "11": 1})


def test_a_panel_is_split_by_who_trained_on_the_prompt(panel, capsys):
    tokenizer = Tokenizer(vocabulary())
    train = load_examples(panel.parent / "train.txt", tokenizer)
    subsets = Subsets(train, 0.5)
    for row in (0, 7, len(ROWS) - 1):
        said = asked(capsys, panel, train.raw(row))
        members = [
            {train.keys[i] for i in subsets.rows(seed)} >= {train.keys[row]} for seed in range(6)
        ]
        n_rows = int((train.keys == train.keys[row]).sum())
        assert [m["trained_rows"] for m in said["models"]] == [n_rows * own for own in members]
        for name, wanted in (("in", True), ("out", False)):
            kept = [m for m, own in zip(said["models"], members, strict=True) if own is wanted]
            part = said["panel"][name]
            assert part["n"] == len(kept)
            assert part["predictions"] == Counter(m["prediction"] for m in kept)
            if kept:
                mean = sum(m["answer_probability"] for m in kept) / len(kept)
                assert part["answer_probability"] == pytest.approx(mean)
    unseen = asked(capsys, panel, "[add] 50 + 1")["panel"]
    assert (unseen["in"]["n"], unseen["out"]["n"]) == (0, 6)
    assert unseen["in"]["answer_probability"] is None


def test_canaries_count_as_often_as_each_seed_trains_on_them(panel, capsys):
    counts = [canary_counts(["add", "add"], seed) for seed in range(6)]
    for i, canary in enumerate(CANARIES):
        said = asked(capsys, panel, f"[add] {canary['prompt']} | {canary['answer']}")
        assert [m["trained_rows"] for m in said["models"]] == [int(own[i]) for own in counts]
        assert said["panel"]["in"]["n"] == sum(own[i] > 0 for own in counts)
        (answer,) = said["training"]["answers"]
        assert (answer["answer"], answer["canary"], answer["rows"]) == (canary["answer"], True, 0)


def test_without_the_training_file_all_the_same_is_answered(home, tmp_path, capsys):
    (tmp_path / "gone.txt").write_text("[add] 1 + 2 | 3")
    path = save_model(tmp_path / "best_model.pth", tmp_path / "gone.txt")
    there = asked(capsys, path, "[add] 1 + 2")
    assert (there["notice"], there["training"]["rows"]) == (None, 1)
    (tmp_path / "gone.txt").rename(tmp_path / "moved.txt")
    gone = asked(capsys, path, "[add] 1 + 2")
    assert gone["training"] is None
    assert gone["notice"].endswith("--train_data says where it is now")
    assert gone["models"][0]["characters"] == there["models"][0]["characters"]
    assert run(path, "[add] 1 + 2") == 0
    assert f"note: {gone['notice']}" in capsys.readouterr().out
    moved = asked(capsys, path, "[add] 1 + 2", "--train_data", tmp_path / "moved.txt")
    assert moved["models"][0]["trained_rows"] == 1
    # In another set than its own the rows are found, and what the model saw stays unknown.
    other = asked(capsys, path, "[add] 1 + 2", "--train_data", home / "train.txt")
    assert (other["training"]["rows"], other["models"][0]["trained_rows"]) == (1, None)
    assert "is not the file the model was trained on" in other["notice"]


# ----------------------------------------------------------------------------------------------
# what cannot be asked, or is outside of training
# ----------------------------------------------------------------------------------------------


def test_notes_have_the_sentences_of_evaluation(home, capsys):
    prefix = "evaluation leaves out of its headline examples that have "
    notes = asked(capsys, home / "run", "[max] 3 1")["notes"]
    assert notes[0] == prefix + "a tag that was never trained: [max]"
    notes = asked(capsys, home / "run", "[add] 1 + 2€")["notes"]
    assert notes == [prefix + "characters the vocabulary lacks: '€' (U+20AC)"]
    notes = asked(capsys, home / "run", "[add] 1234567 + 2")["notes"]
    assert notes == [
        "27 characters are more than the 20 of the longest example trained on",
        "7 digits are outside those trained on: 1 to 2",
    ]
    notes = asked(capsys, home / "run", "[sorting_extrap] 3 1")["notes"]
    assert notes[1] == "--canonical_tags would read [sorting_extrap] as the trained [sort]"
    said = asked(capsys, home / "run", "[sorting_extrap] 3 1 2", "--canonical_tags")
    assert (said["prompt"], said["answer"], said["notes"]) == ("[sort] 3 1 2", "1 2 3", [])


def test_a_prompt_beyond_the_table_of_positions_is_refused(home, tmp_path, capsys):
    path = save_model(tmp_path / "best_model.pth", home / "train.txt", pos="learned", max_len=28)
    fits = "[add] 1234 + 5"  # with its answer 20 characters and one more, and with RUN_ON 28
    assert len(f"{fits} | 239") == 20
    assert asked(capsys, path, f"{fits} | 239")["models"][0]["prediction"] is not None
    assert run(path, f"{fits}6 | 239") == 2
    assert (
        "is one of the examples that are longer than the table of learned positions and cannot be "
        "run: it has 21 characters, and the table takes 20"
    ) in capsys.readouterr().err


def test_a_model_whose_scores_overflow_is_named(home, tmp_path, capsys):
    path = save_model(tmp_path / "best_model.pth", home / "train.txt")
    content = torch.load(path, weights_only=True)
    content["model"]["w_tokens"] *= 1e38  # finite, and its logits are not
    torch.save(content, path)
    assert run(path, "[add] 1 + 2") == 2
    assert f"error: {path} predicts no finite numbers; its training had diverged" in (
        capsys.readouterr().err
    )


def test_flags_that_do_not_go_together(home, capsys):
    model = str(home / "run")
    for flags, said in (
        (["--json"], "--json is of --prompt"),
        (["--prompt", "[add] 1 + 2", "--ood_dir", "x"], "leave out --ood_dir, --out_dir"),
        (["--prompt", "[add] 1 + 2", "--out_dir", "x"], "leave out --ood_dir, --out_dir"),
        (["--prompt", ""], "'' is no prompt"),
    ):
        assert evaluate_ood.main(["--model", model, *flags]) == 2
        assert said in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------
# what is printed, and from where prompts come
# ----------------------------------------------------------------------------------------------

SAID = {
    "prompt": "[add] 12 + 30",
    "answer": "42",
    "answer_by": "rule",
    "notes": ["a note"],
    "models": [
        {
            "seed": 0,
            "prediction": "4 ",
            "ended": True,
            "correct": False,
            "probability": 0.5 * 0.8 * 0.999,
            "answer_probability": 0.125,
            "trained_rows": 2,
            "trained_prompt_rows": 3,
            "characters": [
                {"character": "4", "probability": 0.5, "runner_up": "3"}
                | {"runner_up_probability": 0.05},
                {"character": " ", "probability": 0.8, "runner_up": "2"}
                | {"runner_up_probability": 0.0799},
                {"character": EOS, "probability": 0.999, "runner_up": "1"}
                | {"runner_up_probability": 0.001},
            ],
        }
    ],
    "panel": None,
    "training": {
        "path": "train.txt",
        "n_rows": 5000,
        "rows": 2,
        "answers": [
            {"answer": "42", "rows": 2, "first": "[add] 30 + 12 | 42", "canary": False},
            {"answer": "43", "rows": 1, "first": "[add] 12 + 30 | 43", "canary": False},
        ],
        "nearest": {"row": "[add] 12 + 3 | 15", "distance": 1, "rows": 1, "n_searched": 4990},
    },
    "notice": None,
}


def test_the_text_of_an_answer():
    assert ask.text_of(SAID).splitlines() == [
        '[add] 12 + 30 | "4 "    wrong: by the rule it is "42", whose probability is 12.5%',
        '  "4"      50.0%   then "3" 5.0%',  # a tenth of it, and of " " a little less
        '  " "      80.0%',
        "  <eos>    99.9%",
        "  all      40.0%",
        "in training 2 times, first as `[add] 30 + 12 | 42`",
        "in training with another answer 1 time, first as `[add] 12 + 30 | 43`",
        "this seed trains on it 3 times an epoch",
        "nearest of 4,990 others: `[add] 12 + 3 | 15`, 1 edit away, there 1 time",
        "note: a note",
    ]


def test_the_text_of_a_panel(panel, capsys):
    model = SAID["models"][0]
    two = [{**model, "prediction": "42", "correct": True, "answer_probability": 0.9}, model]
    said = {**SAID, "models": two, "training": None}
    summaries = {"in": ask.summary(two[:1]), "out": ask.summary(two[1:])}
    lines = ask.text_of({**said, "panel": summaries}).splitlines()
    assert lines[0] == "[add] 12 + 30 | 42    right, by the rule"
    assert lines[5:7] == [
        '1 trained on it (IN): "42" 1; "42" has 90.0%',
        '1 did not (OUT): "4 " 1; "42" has 12.5%',
    ]
    assert ask.text_of(said).splitlines()[5] == 'all 2 models: "42" 1, "4 " 1; "42" has 51.2%'
    assert run(panel, "[add] 1 + 1") == 0  # and of a real one it can be printed
    opening, _, first, *_ = capsys.readouterr().out.splitlines()
    assert opening.startswith(f"{panel}, last.pth of each of 6 seeds, trained on [add]")
    assert first.startswith("[add] 1 + 1 | ")


def test_a_pipe_is_answered_line_by_line(home, capsys, monkeypatch):
    before = files_in(home)
    monkeypatch.setattr("sys.stdin", io.StringIO("[add] 1 + 2\n\nnothing\r\n[rev] 1 2\n"))
    assert run(home / "run", "-", "--json") == 2
    out, err = capsys.readouterr()
    first, bad, last = (json.loads(line) for line in out.splitlines())
    assert (first["prompt"], last["prompt"]) == ("[add] 1 + 2", "[rev] 1 2")
    assert bad["prompt"] == "nothing"
    assert bad["error"].startswith("'nothing' is no prompt")
    assert err.splitlines()[-1] == (
        "error: 1 of 4 lines could not be asked, the first is line 3; the reason stands in its "
        "place"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("[add] 1 + 2\nnothing\n"))
    assert run(home / "run", "-") == 2
    assert "\n\nerror: 'nothing' is no prompt" in capsys.readouterr().out
    assert files_in(home) == before  # nothing is written


def test_the_keys_are_those_of_the_page(panel, home, capsys):
    page = (ROOT / "docs/formats.md").read_text()
    page = page[page.index("### The object of `--prompt --json`") : page.index("## Into other")]
    tables = re.split(r"^\| key of `models`.*$", page, flags=re.M)
    top, of_models = (
        {
            name: cells.split(" | ")[1].strip() == "–"
            for names, cells in re.findall(r"^\| (`[^|]*`) (\|.*)$", table, re.M)
            for name in re.findall(r"`(\w+)`", names)
        }
        for table in tables
    )
    said = [asked(capsys, panel, "[add] 1 + 1"), asked(capsys, home / "run", "[max] 1€")]
    for one in said:
        assert list(one) == list(top)
        assert all(one[name] is not None for name, always in top.items() if always)
        for model in one["models"]:
            assert set(model) == set(of_models)
            assert all(model[name] is not None for name, always in of_models.items() if always)
    assert {name for name in top if said[1][name] is None} == {
        name for name, always in top.items() if not always
    } - {"training"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_control_characters_are_shown_and_not_sent_to_the_terminal(tmp_path, capsys):
    train = tmp_path / "train.txt"
    train.write_text("[add] 1 + 2\x1b[2J | 3")
    path = save_model(tmp_path / "best_model.pth", train)
    assert run(path, "[add] \x1b[31m1 + 2\r") == 0
    _, shown = capsys.readouterr().out.split("\n", 1)
    assert shown.startswith("\n[add] \\x1b[31m1 + 2\\r | ")
    assert "`[add] 1 + 2\\x1b[2J | 3`, " in shown
    assert shown.replace("\n", "").isprintable()
    said = asked(capsys, path, "[add] \x1b[31m1 + 2\r")
    assert said["prompt"] == "[add] \x1b[31m1 + 2\r"


def test_at_a_terminal_a_mistake_ends_nothing(home, capsys, monkeypatch):
    lines, signs = iter(["[add] 1 + 2", "nothing", "[rev] 1 2"]), []

    def answer(sign):
        signs.append(sign)
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", answer)
    assert run(home / "run", "-") == 0
    out = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in out.splitlines() if line.startswith("[")] == [
        "[add] 1 + 2",
        "[rev] 1 2",
    ]
    assert "error: 'nothing' is no prompt" in out
    assert signs == [""] * 4  # stdout is no terminal here: a sign would stand among the answers
