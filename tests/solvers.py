"""Answers and keys of the tasks, computed by code that shares nothing with the generator."""

import re


def halves(raw: str) -> tuple[str, str, str]:
    """Tag, prompt, answer, by plain string search."""
    left, answer = raw.rsplit(" | ", 1)
    tag, prompt = left[1:].split("] ", 1)
    return tag, prompt, answer


def insertion_sort(items):
    done = []
    for item in items:
        place = sum(1 for other in done if other <= item)
        done.insert(place, item)
    return done


def relative(prompt: str) -> str:
    """Walks the facts as text, one at a time."""
    facts, question = prompt.split("?")
    direction, hops, person = question.split()
    for _ in range(int(hops)):
        here, there = (2, 0) if direction == "up" else (0, 2)
        matches = [fact for fact in facts.split() if fact[here] == person]
        assert len(matches) == 1, f"{person} is ambiguous in {prompt}"
        person = matches[0][there]
    return person


def solve(tag: str, prompt: str) -> str:
    if prompt.startswith("["):
        inner_tag, inner_prompt = prompt[1:].split("] ", 1)
        return solve(tag, solve(inner_tag, inner_prompt))
    if tag == "rel":
        return relative(prompt)
    numbers = [int(number) for number in re.findall(r"\d+", prompt)]
    answer = {
        "copy": lambda: numbers,
        "rev": lambda: list(reversed(numbers)),
        "sort": lambda: insertion_sort(numbers),
        "add": lambda: [sum(numbers)],
        "sub": lambda: [numbers[0] - numbers[1]],
        "mul": lambda: [sum(numbers[0] for _ in range(numbers[1]))],
        "max": lambda: [insertion_sort(numbers)[-1]],
        "count": lambda: [len(numbers)],
        "dedup": lambda: [n for i, n in enumerate(numbers) if n not in numbers[:i]],
    }[tag]()
    return " ".join(str(number) for number in answer)


def own_key(tag: str, prompt: str):
    """The canonical key again, as a tuple of integers and facts."""
    if prompt.startswith("["):
        return tag, prompt
    if tag == "rel":
        facts, question = prompt.split("?")
        return tag, frozenset(facts.split()), tuple(question.split())
    numbers = [int(number) for number in re.findall(r"\d+", prompt)]
    return tag, tuple(sorted(numbers) if tag in ("add", "sort") else numbers)


def own_keys(raws) -> set:
    return {own_key(tag, prompt) for tag, prompt, _ in map(halves, raws)}
