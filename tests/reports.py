"""Run folders for the tests of report.py, in which some texts are written to break a page."""

import json

import numpy as np

import evaluate_memorization
from metrics import exact_match, failure_kinds, rate
from panels import mixture, sums, write_panel
from run_folders import curriculum_rows, ood_results, write_json, write_rows

SCRIPT = "<script>document.title = 'run'</script>"
HOSTILE = (  # prompt, answer, prediction
    (SCRIPT, "</script><b>bold</b>", "<img src=x onerror=alert(1)>"),
    ('"quoted" & <!-- not a comment', "=1+1", "=1+2"),
)


def panel(folder):
    """A scripted panel of 16 replicas with its memorization/ results; a tenth of wrong answers."""
    rows = sums(np.random.default_rng(0), 240, wrong_share=0.1, repeats=(1, 1, 2, 4))
    kept = list(dict.fromkeys(rows))
    val, train = kept[-40:], [row for row in rows if row not in set(kept[-40:])]
    write_panel(folder, mixture(0.3), train, val)
    assert evaluate_memorization.main(["--model", str(folder), "--ledger_only"]) == 0
    for seed in range(16):
        rows = curriculum_rows(4, seed, stages={1: ["add"]})
        write_rows(folder / f"seed_{seed}", rows)
    return folder


def prediction(i, prompt, answer, said, suite="ood_interpolation", task="add", seed=0):
    (right,), (kind,) = exact_match([said], [answer]).tolist(), failure_kinds([said], [answer])
    return {
        "seed": seed,
        "suite": suite,
        "category": "interpolation",
        "task": task,
        "tag": task,
        "prompt": f"[{task}] {prompt} | ",
        "answer": answer,
        "in_headline": True,
        "prediction": said,
        "correct": right,
        "kind": kind,
        "log_prob": -0.5 - i / 100,
    }


def predictions(n=130):
    """Sums of which every third is wrong, some copies, and the hostile ones."""
    lines = [
        prediction(i, f"{i} + {i}", str(2 * i), str(2 * i + (i % 3 == 0))) for i in range(1, n + 1)
    ]
    lines += [
        prediction(i, f"{i} 7", f"{i} 7", f"{i} 7 7", "ood_extrap_copy", "copy") for i in range(20)
    ]
    return lines + [prediction(0, *texts, "ood_robustness", "rev") for texts in HOSTILE]


def model_report(unseen=300, train=440, n=500):
    """memorization.json of a model with so many of n examples right, for two tasks alike."""
    n_task = n // 2

    def row(group, right, **more):
        return {"group": group, **rate([True] * right + [False] * (n - right)), **more}

    def tasks(right):
        each = right // 2
        return [
            {"group": task, **rate([True] * each + [False] * (n_task - each))}
            for task in ("add", "copy")
        ]

    held = [
        {**one, "chance": 0.002, "lookup": {"nearest": 0.01, "suffix": 0.0, "majority": 0.0}}
        for one in tasks(unseen)
    ]
    counts = [
        row(c, right, loss=0.5, by_task=tasks(right)) for c, right in ((0, unseen), (1, train))
    ]
    last = {"epoch": 20, "step": 100, "held_out": "unseen", "by_task": held}
    return {"format": 2, "last": {**last, "by_repeat_count": counts}, "best": None}


def plain(folder, seeds=1, lines=None, epochs=20):
    """A run of all parts but a panel: metrics, memorization.json, suites and predictions."""
    config = {
        "arguments": {"epochs": epochs, "lr": 1e-4},
        "command": ["python", "train_minigpt_4070.py", "--data", "my data.txt"],
        "begun": "2026-11-27 08:00 UTC",
        "seeds": list(range(seeds)),
        "seed": 0,
        "derived": {"n_params": 10_000, "steps_total": 100},
        "data": {"train": {"path": "/x/data/mine/train.txt", "sha256": "ab" * 32}},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "platform": "Linux"},
        "git_commit": "c0ffee" * 6,
    }
    homes = [folder] if seeds == 1 else [folder / f"seed_{seed}" for seed in range(seeds)]
    for seed, home in enumerate(homes):
        write_rows(home, curriculum_rows(20, seed))
        write_json(home / "memorization.json", model_report(unseen=300 + 4 * seed))
        write_json(home / "config.json", {**config, "seeds": [seed], "seed": seed})
    write_json(folder / "config.json", config)
    write_json(folder / "ood_results/ood_results.json", ood_results())
    lines = predictions() if lines is None else lines
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "ood_results/predictions.jsonl").write_text(text)
    return folder
