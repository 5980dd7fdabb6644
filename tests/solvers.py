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


def modular(prompt: str) -> str:
    """Counts up or down, one at a time, around a circle of p places."""
    text, p = prompt.split("mod")
    operator = next(c for c in text if c in "+-*")
    a, b = (int(number) for number in text.split(operator))
    p, place = int(p), 0 if operator == "*" else a
    for _ in range(b):
        place += {"+": 1, "-": -1, "*": a}[operator]
        while place < 0:
            place += p
        place -= place // p * p
    return str(place % p)


def recalled(prompt: str) -> str:
    """What follows the first place of the letter."""
    pairs, letter = prompt.split("?")
    return pairs[pairs.index(letter.strip()) + 1]


def largest_divisor(a: int, b: int) -> int:
    """Euclid, by differences of as many b as there are."""
    return a if b == 0 else largest_divisor(b, a - a // b * b)


def solve(tag: str, prompt: str) -> str:
    if prompt.startswith("["):
        inner_tag, inner_prompt = prompt[1:].split("] ", 1)
        return solve(tag, solve(inner_tag, inner_prompt))
    if tag == "rel":
        return relative(prompt)
    if tag == "mod":
        return modular(prompt)
    if tag == "recall":
        return recalled(prompt)
    if tag == "add_reversed":
        return "".join(reversed(solve("add", prompt)))
    if tag == "add_padded":
        width = max(map(len, re.findall(r"\d+", prompt))) + 1
        return ("0" * width + solve("add", prompt))[-width:]
    numbers = [int(number) for number in re.findall(r"\d+", prompt)]
    answer = {
        "copy": lambda: numbers,
        "rev": lambda: list(reversed(numbers)),
        "sort": lambda: insertion_sort(numbers),
        "add": lambda: [sum(numbers)],
        "gcd": lambda: [largest_divisor(*numbers)],
        "sub": lambda: [numbers[0] - numbers[1]],
        "mul": lambda: [sum(numbers[0] for _ in range(numbers[1]))],
        "max": lambda: [insertion_sort(numbers)[-1]],
        "count": lambda: [len(numbers)],
        "dedup": lambda: [n for i, n in enumerate(numbers) if n not in numbers[:i]],
    }[tag]()
    return " ".join(str(number) for number in answer)


UNORDERED = ("add", "add_reversed", "add_padded", "sort", "gcd")


def own_key(tag: str, prompt: str):
    """The canonical key again, as a tuple of integers and facts."""
    if prompt.startswith("["):
        return tag, prompt
    if tag == "rel":
        facts, question = prompt.split("?")
        return tag, frozenset(facts.split()), tuple(question.split())
    if tag == "recall":
        pairs, letter = prompt.split("?")
        return tag, frozenset(pairs.split()), letter.strip()
    numbers = [int(number) for number in re.findall(r"\d+", prompt)]
    if tag == "mod":
        a, b, p = numbers
        return tag, p, (a, b) if "-" in prompt else frozenset((a, b)), "+" in prompt
    return tag, tuple(sorted(numbers) if tag in UNORDERED else numbers)


def own_keys(raws) -> set:
    return {own_key(tag, prompt) for tag, prompt, _ in map(halves, raws)}
