"""Learning by heart, decoding and scoring, against naive loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_minigpt_4070 as t
from reference import TOKENIZER, reference_answer, reference_decode
from trainer.helpers import CPU, POSITIONS, batch_of, build, draw_rows, make_model, step_of

TAUGHT = draw_rows(10, seed=11)
ALL_ROWS = TAUGHT + draw_rows(25, seed=12) + ["[copy] 1 | 1", "[copy]  | "]
_taught = {}


def taught(pos, seeds=(0,)):
    """A model that has learned TAUGHT by heart, and the loss along the way."""
    if (pos, seeds) not in _taught:
        model = make_model(pos, seeds=seeds, d_model=32).train()
        batch = batch_of(build(TAUGHT), [range(10)] * len(seeds))
        optimizer = t.make_optimizer(model, 0.0)
        for step in range(600):
            for group in optimizer.param_groups:
                group["lr"] = min(1, (step + 1) / 20) * 5e-3
            loss, _ = step_of(model, optimizer, [batch], max_norm=1.0)
            if loss.max() < 0.003:  # every example, not their mean alone
                break
        _taught[pos, seeds] = model.eval()
    return _taught[pos, seeds]


@pytest.mark.parametrize("pos", POSITIONS)
def test_one_batch_can_be_learned_by_heart(pos):
    scores = t.score(taught(pos), build(TAUGHT), np.arange(10), CPU)
    assert scores.exact.tolist() == [[True] * 10]
    assert scores.loss.max() < 0.3


@pytest.mark.parametrize("R", [1, 2])
@pytest.mark.parametrize("pos", POSITIONS)
def test_decoding_equals_a_naive_loop(pos, R):
    """Prompts of many lengths, rows that end at different steps, some at the run-on cap."""
    examples = build(ALL_ROWS)
    model = taught(pos)
    if R == 2:  # one that has learned and one that never ends
        both, wild = make_model(pos, seeds=(0, 1), d_model=32), make_model(pos, d_model=32, std=0.3)
        with torch.no_grad():
            for p, *ps in zip(*(m.parameters() for m in (both, model, wild)), strict=True):
                p.copy_(torch.cat(ps))
        model = both
    n = len(examples)
    rows = np.stack([np.random.default_rng(r).permutation(n)[: 36 // R] for r in range(R)])
    generated = t.generate(model, examples, rows, TOKENIZER.eos, CPU)
    lengths = set()
    for r in range(R):
        for j, row in enumerate(rows[r]):
            n_answer = len(examples.answer(row))
            ids, log_prob, entropy = reference_decode(model, r, examples.prompt(row), n_answer)
            assert generated.ids[r][j] == ids
            assert generated.log_prob[r, j] == pytest.approx(log_prob, rel=1e-3, abs=1e-4)
            assert generated.entropy[r, j] == pytest.approx(entropy, rel=1e-3, abs=1e-4)
            lengths.add("cap" if len(ids) == n_answer + t.RUN_ON else len(ids))
    assert len(lengths) > 3
    assert R == 1 or "cap" in lengths


def test_a_finished_row_waits_while_the_others_go_on():
    """A long prompt with a short answer ends first, and four of five are too many to regroup."""
    rows = ["[copy] " + "7" * 40 + " | 1"] + [f"[copy] {i} | " + "1" * 45 for i in range(4)]
    examples, model = build(rows), make_model(std=0.3)
    generated = t.generate(model, examples, np.arange(5)[None], TOKENIZER.eos, CPU)
    for i in range(5):
        expected = reference_decode(model, 0, examples.prompt(i), len(examples.answer(i)))[0]
        assert generated.ids[0][i] == expected
    assert [len(ids) for ids in generated.ids[0]] == [9, 53, 53, 53, 53]


def test_decoding_in_small_batches_changes_nothing():
    examples, model = build(ALL_ROWS), taught("rope")
    rows = np.arange(len(examples))[None]
    at_once = t.generate(model, examples, rows, TOKENIZER.eos, CPU)
    piecewise = t.generate(model, examples, rows, TOKENIZER.eos, CPU, tokens_per_batch=150)
    assert at_once.ids == piecewise.ids
    np.testing.assert_allclose(at_once.log_prob, piecewise.log_prob, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(at_once.entropy, piecewise.entropy, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pos", POSITIONS)
def test_exact_match_from_one_forward_pass_equals_that_of_decoding(pos):
    examples, model = build(ALL_ROWS), taught(pos)
    n = len(examples)
    rows = np.random.default_rng(0).permutation(n)
    decoded = t.predict_texts(model, TOKENIZER, examples, rows, np.zeros((1, n), bool), CPU)
    assert list(decoded[0]) == rows.tolist()
    right = [decoded[0][i] == examples.answer(i) for i in range(n)]
    scores = t.score(model, examples, np.arange(n), CPU)
    assert scores.exact[0].tolist() == right
    assert 10 <= sum(right) < n
    assert t.predict_texts(model, TOKENIZER, examples, rows, scores.exact, CPU) == decoded
    some = t.predict_texts(model, TOKENIZER, examples, rows[:7], scores.exact, CPU)
    assert some == [{i: decoded[0][i] for i in rows[:7].tolist()}]


def test_replicas_that_fail_on_different_rows_are_all_decoded():
    examples, model = build(ALL_ROWS), make_model(seeds=(0, 1, 2), std=0.3)
    rows = np.arange(6)
    decoded = t.predict_texts(model, TOKENIZER, examples, rows, np.zeros((3, 37), bool), CPU)
    exact = np.zeros((3, 37), bool)
    exact[0, :6], exact[1, 1:] = True, True  # claimed, so the answer stands in for them
    texts = t.predict_texts(model, TOKENIZER, examples, rows, exact, CPU)
    answers = {i: examples.answer(i) for i in range(6)}
    assert texts == [answers, {**answers, 0: decoded[1][0]}, decoded[2]]


def test_scores_equal_the_reference_also_in_small_batches():
    examples = build(ALL_ROWS)
    model = make_model(seeds=(0, 1), std=0.3)
    rows = np.random.default_rng(1).permutation(len(examples))
    scores = t.score(model, examples, rows, CPU)
    small = t.score(model, examples, rows, CPU, tokens_per_batch=200)
    np.testing.assert_allclose(scores.loss, small.loss, rtol=1e-4)
    for r in range(2):
        for j, row in enumerate(rows):
            logits, targets = reference_answer(model, r, examples.raw(row))
            loss = F.cross_entropy(logits, targets).item()
            assert scores.loss[r, j] == pytest.approx(loss, rel=1e-4)
            right = (logits.argmax(-1) == targets).sum().item()
            assert (scores.right[r, j], small.right[r, j]) == (right, right)
            assert scores.n_tokens[r, j] == len(targets)


class Oracle:
    """Answers a batch with the targets; `wrong` (slot, place in the answer) are missed."""

    R = 1

    def __init__(self, wrong=()):
        self.wrong = wrong

    def eval(self):
        return self

    def __call__(self, batch):
        logits = F.one_hot(batch.targets.clamp(min=0), len(TOKENIZER)).float()
        for slot, place in self.wrong:
            at = np.flatnonzero(batch.slot[0] == slot)[place]
            logits[0, at] = logits[0, at].roll(1)
        return logits


def test_only_the_answer_is_scored():
    """Right on the answer and <eos> is 1 whatever the prompt's predictions; one slip is 0."""
    examples = build(["[copy] 123 | 123"])
    rows = np.array([0])
    assert t.score(Oracle(), examples, rows, CPU).exact.tolist() == [[True]]
    for place in range(4):  # the fourth is <eos>
        scores = t.score(Oracle([(0, place)]), examples, rows, CPU)
        assert (scores.exact.tolist(), scores.right.tolist()) == ([[False]], [[3]])
    scores = t.score(Oracle([(0, place) for place in range(4)]), examples, rows, CPU)
    assert (scores.right.tolist(), scores.n_tokens.tolist()) == ([[0]], [[4]])


def test_prompt_predictions_bring_no_gradient():
    """The last prompt position predicts the answer; the loss depends on no earlier target."""
    examples = build(["[copy] 12 | 7", "[rev] 12 | 7"])
    batch = batch_of(examples, [0])
    real = batch.targets != t.IGNORED
    assert batch.targets[real].tolist() == [TOKENIZER.stoi["7"], TOKENIZER.eos]
    assert batch.answer_at[real].tolist() == [len("[copy] 12 | ") - 1, len("[copy] 12 | 7") - 1]
