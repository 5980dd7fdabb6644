"""One prompt to a model, or to every seed of a run: what is answered, how surely, and why perhaps.

Beside each character of the answer stands its probability; beside the answer stands what the model
trained on: rows that are this example, the nearest other one, and in a panel what those replicas
say that trained on it (IN) and those that did not (OUT).
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.formats import EOS, Examples, Tokenizer, build_examples, tags_of
from data.readers import RowFormat
from data.tasks import TASKS, canonical_tags, size_of, split_example
from evaluation.models import Replicas
from evaluation.suites import REASONS, Suite, audit, in_brackets, map_tags, tags_to_map
from evaluation.training import TRAINED, TrainingIndex
from runtime.cli import printable
from runtime.errors import UserError
from train_minigpt_4070 import GPT, RUN_ON, Batch, score

RUNNER_UP = 0.1  # one is shown from this share of the probability of the character chosen

# ----------------------------------------------------------------------------------------------
# A question
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    examples: Examples  # one row: the prompt, and the answer where one is known
    answer: str | None
    answer_by: str | None  # "given" with the prompt, or the task's "rule"

    @property
    def prompt(self) -> str:
        return self.examples.prompt(0)


def read_question(text: str, checkpoint: dict, tokenizer: Tokenizer, mapping: bool) -> Question:
    """The Question in `[tag] prompt` or `[tag] prompt | answer`; UserError where it is none.

    A tag may be left out where the model was trained with --task, or on one tag alone. With
    `mapping` untrained tags of the earlier program become trained ones.
    """
    trained = checkpoint["trained_tags"]
    line = text.removesuffix(" | ").removesuffix(" |")
    if not line.startswith("["):
        known = RowFormat.of(checkpoint["data"]["train"]).task
        known = known or (trained[0] if len(trained) == 1 else None)
        line = f"[{known}] {line}" if known else line
    try:
        tag, prompt, answer = split_example(line if " | " in line else f"{line} | ")
    except ValueError:
        raise UserError(
            f"{text[:60]!r} is no prompt; a right one is `{in_brackets(trained[:1])} 12 + 5`, with "
            "` | 17` after it where the answer is to be compared"
        ) from None
    head, by = f"[{tag}] {prompt}", "given" if answer else None
    if mapping:
        head = map_tags(head, tags_to_map(tags_of(head), trained))
        tag, prompt, _ = split_example(f"{head} | ")
    if not answer and tag in TASKS:
        with suppress(ValueError):  # the prompt is outside the task's grammar
            answer, by = TASKS[tag].answer(prompt), "rule"
    examples = build_examples([f"{head} | {answer}"], tokenizer, "the prompt")
    return Question(examples, answer or None, by)


def notes_on(question: Question, checkpoint: dict, sizes: dict[str, list[int]]) -> list[str]:
    """What evaluation would say of such an example. UserError where it cannot be run."""
    examples, trained = question.examples, checkpoint["trained_tags"]
    tags = list(examples.all_tags[0])
    facts = audit(Suite(Path("prompt"), "", examples, tags=[tags], mapped={}), checkpoint, None)
    holds = {name: bool(values[0]) for name, values in facts.items()}
    if holds["beyond_position_table"]:
        raise UserError(
            f"{question.prompt[:60]!r} is one of the examples that "
            f"{REASONS['beyond_position_table']}: it has {int(examples.lengths[0])} characters, "
            f"and the table takes {checkpoint['arch']['max_len'] - RUN_ON}"
        )
    notes = []
    if holds["untrained_tag"]:
        others = [tag for tag in tags if tag not in trained]
        notes.append(left_out("untrained_tag", in_brackets(others)))
        for tag in others:
            if set(to := canonical_tags(tag)) <= set(trained):
                to = in_brackets(to)
                notes.append(f"--canonical_tags would read [{tag}] as the trained {to}")
    if holds["unknown_characters"]:
        some = ", ".join(f"{c!r} (U+{ord(c):04X})" for c, _ in examples.unknown_characters())
        notes.append(left_out("unknown_characters", some))
    if holds["beyond_training_length"]:
        notes.append(
            f"{int(examples.lengths[0])} characters are more than the "
            f"{checkpoint['trained_length']} of the longest example trained on"
        )
    with suppress(ValueError, IndexError, KeyError):  # a prompt of another grammar has no size
        (low, high), size = sizes[tags[0]], size_of(examples.raw(0))
        if len(tags) == 1 and not low <= size <= high:
            trained_on = f"{low} to {high}" if high > low else low
            notes.append(f"{size} {TASKS[tags[0]].unit} are outside those trained on: {trained_on}")
    return notes


def left_out(reason: str, which: str) -> str:
    return f"evaluation leaves out of its headline examples that {REASONS[reason]}: {which}"


# ----------------------------------------------------------------------------------------------
# The models' answers
# ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def decode(model: GPT, ids: Sequence[int], eos: int, at_most: int) -> list[list[tuple]]:
    """Greedy decoding of one prompt by R replicas, everything computed anew for each character.

    Returns R lists of (id, its probability, id of the runner-up, its probability), the last of
    them `eos` where the model ends within `at_most` steps.
    """
    device = model.w_tokens.device
    text = torch.tensor(ids, device=device).expand(model.R, -1)  # [R, T]
    steps, ended = [[] for _ in range(model.R)], torch.zeros(model.R, dtype=bool, device=device)
    for _ in range(at_most):
        T = text.shape[1]
        last = torch.full((model.R, 1), T - 1, device=device)
        pos = torch.arange(T, device=device)
        batch = Batch(text, pos, groups=[(1, T)], answer_at=last, targets=None, slot=None)
        logits = model(batch)[:, 0].float()  # [R, V]
        chosen = logits.argmax(-1)  # as in `generate`
        others = logits.scatter(1, chosen[:, None], -math.inf).argmax(-1)
        pairs = torch.stack([chosen, others], 1)  # [R, 2]
        shares = logits.softmax(-1).gather(1, pairs).tolist()
        for r, (two, (p, q)) in enumerate(zip(pairs.tolist(), shares, strict=True)):
            if not ended[r]:
                steps[r].append((two[0], p, two[1], q))
        ended |= chosen == eos
        if ended.all():
            break
        text = torch.cat([text, chosen[:, None]], 1)
    return steps


def token_text(tokenizer: Tokenizer, token: int) -> str:
    return EOS if token == tokenizer.eos else tokenizer.decode([token])


def answers_of(
    replicas: Replicas, tokenizer: Tokenizer, question: Question, device: torch.device
) -> list[dict]:
    """What each replica answers, [R] dicts. Generation is cut where evaluation would cut it."""
    examples, arch = question.examples, replicas.checkpoints[0]["arch"]
    ids = tokenizer.encode(question.prompt).tolist()
    n = len(question.answer or "") or replicas.checkpoints[0]["trained_length"] - len(ids)
    at_most = max(n, 0) + RUN_ON
    if arch["pos"] == "learned":
        at_most = min(at_most, arch["max_len"] - len(ids))
    known = question.answer is not None and not len(examples.with_unknown())
    scores = score(replicas.model, examples, np.zeros(1, int), device) if known else None
    made = []
    for r, steps in enumerate(decode(replicas.model, ids, tokenizer.eos, at_most)):
        if not all(math.isfinite(p) for _, p, *_ in steps):
            raise UserError(
                f"{replicas.paths[r]} predicts no finite numbers; its training had diverged; train "
                "again with a lower --lr"
            )
        ended = steps[-1][0] == tokenizer.eos
        prediction = tokenizer.decode([token for token, *_ in steps[: len(steps) - ended]])
        right = question.answer and ended and prediction == question.answer
        nats = float(scores.loss[r, 0] * scores.n_tokens[r, 0]) if known else None
        made.append(
            {
                "seed": replicas.seeds[r],
                "prediction": prediction,
                "ended": ended,
                "correct": None if question.answer is None else bool(right),
                "probability": math.prod(p for _, p, *_ in steps),
                "answer_probability": math.exp(-nats) if known else None,
                "characters": [
                    {
                        "character": token_text(tokenizer, token),
                        "probability": p,
                        "runner_up": token_text(tokenizer, other),
                        "runner_up_probability": q,
                    }
                    for token, p, other, q in steps
                ],
            }
        )
    return made


def in_and_out(models: list[dict]) -> dict:
    """The answers of the replicas that trained on the prompt, and of those that did not."""
    parts = {"in": [], "out": []}
    for model in models:
        parts["in" if model["trained_prompt_rows"] else "out"].append(model)
    return {name: summary(part) for name, part in parts.items()}


def summary(models: list[dict]) -> dict:
    """How many replicas give each prediction, and their mean probability of the right answer."""
    known = [m["answer_probability"] for m in models if m["answer_probability"] is not None]
    return {
        "n": len(models),
        "predictions": dict(Counter(model["prediction"] for model in models).most_common()),
        "answer_probability": float(np.mean(known)) if known else None,
    }


# ----------------------------------------------------------------------------------------------
# An answer, and how it is shown
# ----------------------------------------------------------------------------------------------


@dataclass
class Session:
    """Whom to ask, and what is known of their training."""

    replicas: Replicas
    tokenizer: Tokenizer
    device: torch.device
    training: TrainingIndex | None
    notice: str  # why `training` is None, or what to know of it
    canonical_tags: bool

    def ask(self, text: str) -> dict:
        """Everything that is said of one prompt, the object of --json; UserError if it is none."""
        checkpoint, training = self.replicas.checkpoints[0], self.training
        question = read_question(text, checkpoint, self.tokenizer, self.canonical_tags)
        notes = notes_on(question, checkpoint, training.sizes if training else {})
        models = answers_of(self.replicas, self.tokenizer, question, self.device)
        for r, model in enumerate(models):
            model |= (
                training.trained_rows(question.examples, r) if training else dict.fromkeys(TRAINED)
            )
        of_panel = len(models) > 1 and training and training.is_panel and training.own
        return {
            "prompt": question.prompt.removesuffix(" | "),
            "answer": question.answer,
            "answer_by": question.answer_by,
            "notes": notes,
            "models": models,
            "panel": in_and_out(models) if of_panel else None,
            "training": training and training.facts(question.examples),
            "notice": self.notice or None,
        }


def times(n: int) -> str:
    return f"{n:,} time" + "s" * (n != 1)


def character_lines(models: list[dict]) -> list[str]:
    """Each character of an answer that all these models give: means of its probability."""
    lines = []
    for place, first in enumerate(models[0]["characters"]):
        of_each = [model["characters"][place] for model in models]
        share = np.mean([one["probability"] for one in of_each])
        line = f"  {quoted(first['character']):7}{share:7.1%}"
        # The commonest runner-up; a model that has another one adds nothing.
        second = Counter(one["runner_up"] for one in of_each).most_common(1)[0][0]
        beside = [one for one in of_each if one["runner_up"] == second]
        share_of_second = sum(one["runner_up_probability"] for one in beside) / len(of_each)
        if share_of_second >= RUNNER_UP * share:
            line += f"   then {quoted(second)} {share_of_second:.1%}"
        lines.append(line)
    ends = "" if models[0]["ended"] else "   (cut here: it writes no <eos>)"
    whole = np.mean([model["probability"] for model in models])
    return [*lines, f"  {'all':7}{whole:7.1%}{ends}"]


def quoted(character: str) -> str:
    return character if character == EOS else f'"{character}"'


def verdict(said: dict, model: dict) -> str:
    """`right, as given`, or what would be right."""
    if said["answer"] is None:
        return "no rule is known; write ` | answer` after the prompt to compare"
    by = "as given" if said["answer_by"] == "given" else "by the rule"
    if model["correct"]:
        return f"right, {by}"
    known = model["answer_probability"] if len(said["models"]) == 1 else None
    share = "" if known is None else f", whose probability is {known:.1%}"
    return f'wrong: {by} it is "{said["answer"]}"{share}'


def share_lines(said: dict) -> list[str]:
    """How many of several models give each prediction; of a panel IN and OUT apart."""
    parts = {f"all {len(said['models'])} models": summary(said["models"])}
    if said["panel"]:
        trained, others = said["panel"]["in"], said["panel"]["out"]
        parts = {f"{trained['n']} trained on it (IN)": trained}
        parts[f"{others['n']} did not (OUT)"] = others
    lines = []
    for name, part in parts.items():
        some = list(part["predictions"].items())
        given = ", ".join(f'"{text}" {n:,}' for text, n in some[:5])
        more = f", {len(some) - 5:,} others" if len(some) > 5 else ""
        share = part["answer_probability"]
        right = "" if share is None else f'; "{said["answer"]}" has {share:.1%}'
        lines.append(f"{name}: {given}{more}{right}" if some else name)
    return lines


def training_lines(said: dict) -> list[str]:
    """Whether the training set has the example, and what is nearest to it."""
    training, lines = said["training"], []
    if training is None:
        return []
    if training["rows"] == 0 or not training["answers"]:
        lines.append(f"not in training ({training['n_rows']:,} rows)")
    for one in training["answers"]:
        other = said["answer"] not in (None, one["answer"])
        if one["rows"]:
            with_another = "with another answer " if other else ""
            n = times(one["rows"])
            lines.append(f"in training {with_another}{n}, first as `{one['first']}`")
        if one["canary"]:
            lines.append(f"planted as a canary: `{one['first']}`")
    own = said["models"][0]["trained_prompt_rows"]
    if len(said["models"]) == 1 and own is not None and training["answers"]:
        lines.append(f"this seed trains on it {times(own)} an epoch")
    if near := training["nearest"]:
        edits = f"{near['distance']} edit" + "s" * (near["distance"] != 1)
        lines.append(
            f"nearest of {near['n_searched']:,} others: `{near['row']}`, {edits} away, there "
            f"{times(near['rows'])}"
        )
    return lines


def text_of(said: dict) -> str:
    """What is printed of one answer."""
    commonest = Counter(model["prediction"] for model in said["models"]).most_common(1)[0][0]
    giving = [model for model in said["models"] if model["prediction"] == commonest]
    giving = [model for model in giving if model["ended"] == giving[0]["ended"]]
    if commonest != commonest.strip() or not commonest:  # nothing, or a space, is to be seen
        commonest = f'"{commonest}"'
    lines = [f"{said['prompt']} | {commonest}    {verdict(said, giving[0])}"]
    lines += character_lines(giving)
    if len(said["models"]) > 1:
        lines += share_lines(said)
    lines += training_lines(said)
    lines += [f"note: {note}" for note in said["notes"]]
    return "\n".join(map(printable, lines))


# ----------------------------------------------------------------------------------------------
# Prompts: one, or line by line
# ----------------------------------------------------------------------------------------------


def prompts_from(text: str) -> Iterator[str]:
    """`text`, or for "-" the lines of standard input; at a terminal with history and editing."""
    if text != "-":
        yield text
    elif sys.stdin.isatty():
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401
        sign = "> " if sys.stdout.isatty() else ""
        with suppress(EOFError):
            while True:
                yield input(sign)
    else:
        if hasattr(sys.stdin, "reconfigure"):
            # A byte that is no text becomes a character that the vocabulary lacks.
            sys.stdin.reconfigure(errors="replace")
        for line in sys.stdin:
            yield line.rstrip("\r\n")


def converse(session: Session, text: str, as_json: bool) -> None:
    """Answer each prompt as it comes. One that cannot be asked is told, and the next one is read;
    at the end UserError says so, but not at a terminal.
    """
    failed, at_terminal = [], text == "-" and sys.stdin.isatty()
    for number, line in enumerate(prompts_from(text), start=1):
        if text == "-" and not line.strip():
            continue
        try:
            said = session.ask(line)
        except UserError as error:
            if text != "-":
                raise
            failed.append(number)
            said = {"prompt": line, "error": str(error)}
        shown = f"error: {said['error']}" if "error" in said else text_of(said)
        print(json.dumps(said, allow_nan=False) if as_json else f"\n{shown}", flush=True)
    if failed and not at_terminal:
        raise UserError(
            f"{len(failed):,} of {number:,} lines could not be asked, the first is line "
            f"{failed[0]:,}; the reason stands in its place"
        )
