"""What pure lookup in the training set would answer: the baselines beside every rate.

    >>> nearest_answers(["12 + 3"], ["add"], train)     # the answer of the most similar prompt
    >>> suffix_answers(["12 + 3"], ["add"], train)      # the longest context seen before goes on
    >>> majority_answers(["add"], train)                # the commonest answer of the task
    >>> look_up(val, rows, training_texts(train)).rates(rows)    # their exact match, from Examples
    {'n': 2500, 'n_train': 50000, 'nearest': 0.0164, 'suffix': 0.0148, 'majority': 0.0}

None of them knows a rule. A model that scores no more than they do on unseen examples may have
learned none either. Pure functions of texts: answers come back as texts, to be scored like the
predictions of a model. Everything is done tag by tag. A query whose tag is not in the training set
gets the empty answer, which `look_up` counts as wrong.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from data.formats import Examples
from data.tasks import TASKS

END = "\n"  # stands for <eos> where lines are joined to one text; no example holds a line break


@dataclass(frozen=True)
class TrainingTexts:
    """The training examples, one in each place of three lists of the same length."""

    tags: Sequence[str]
    prompts: Sequence[str]
    answers: Sequence[str]
    suffix_models: dict = field(default_factory=dict, init=False, repr=False)  # by tag, once made

    def __post_init__(self):
        lengths = [len(self.tags), len(self.prompts), len(self.answers)]
        if len(set(lengths)) > 1:
            raise ValueError(f"tags, prompts and answers differ in length: {lengths}")

    def of_tag(self, tag: str) -> list[tuple[str, str]]:
        rows = zip(self.tags, self.prompts, self.answers, strict=True)
        return [(prompt, answer) for own, prompt, answer in rows if own == tag]


def _by_tag(
    queries: Sequence[str],
    tags: Sequence[str],
    train: TrainingTexts,
    answer: Callable[[list[str], list[tuple[str, str]], str], list[str]],
) -> list[str]:
    """answer(queries of a tag, its training rows, the tag) for each tag, in the queries' order."""
    if len(queries) != len(tags):
        raise ValueError(f"lengths differ: {len(queries)} queries, {len(tags)} tags")
    places = defaultdict(list)
    for place, tag in enumerate(tags):
        places[tag].append(place)
    answers = [""] * len(queries)
    for tag, own in places.items():
        rows = train.of_tag(tag)
        if rows:
            found = answer([queries[place] for place in own], rows, tag)
            for place, text in zip(own, found, strict=True):
                answers[place] = text
    return answers


# ----------------------------------------------------------------------------------------------
# Nearest prompt, majority, chance
# ----------------------------------------------------------------------------------------------


def _distances(prompts: list[str], train_prompts: list[str]) -> Iterator[tuple[slice, np.ndarray]]:
    """Edit distances, not normalized, int32 [block, training prompts], and where the block stands.

    Blocks of at most 2^22 distances; none without training prompts.
    """
    block = max(1, 2**22 // max(1, len(train_prompts)))
    for i in range(0, len(prompts), block) if train_prompts else ():
        places = slice(i, i + block)
        yield (
            places,
            cdist(
                prompts[places],
                train_prompts,
                scorer=Levenshtein.distance,
                dtype=np.int32,
                workers=-1,
            ),
        )


def nearest_answers(prompts: Sequence[str], tags: Sequence[str], train: TrainingTexts) -> list[str]:
    """The answer of the training prompts of the same tag at the least edit distance.

    Levenshtein distance, not normalized. Several prompts as near vote; of answers with as many
    votes the one of the earliest row wins. A prompt of the training set finds itself. Exact, so its
    time grows with queries times training rows; memory is bounded by blocks of 2^22 distances.
    """

    def answer(queries: list[str], rows: list[tuple[str, str]], tag: str) -> list[str]:
        found = []
        for _, distances in _distances(queries, [prompt for prompt, _ in rows]):
            for row in distances:
                votes = Counter(rows[place][1] for place in np.flatnonzero(row == row.min()))
                found.append(votes.most_common(1)[0][0])  # the first to come of equal counts
        return found

    return _by_tag(prompts, tags, train, answer)


def nearest_neighbours(
    prompts: Sequence[str], tags: Sequence[str], train: TrainingTexts, own_rows: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training row of the same tag by edit distance of prompts, and the distance.

    Both int64 [n], the row of several as near being the first; -1 and -1 where there is none.
    own_rows int [n]: the training row that is the example itself and does not count, -1 for none.
    Time grows with prompts times training rows; memory is bounded by blocks of 2^22 distances.
    """
    nearest, least = np.full((2, len(prompts)), -1)
    for tag in dict.fromkeys(tags):
        rows = np.array([i for i, other in enumerate(train.tags) if other == tag], dtype=np.int64)
        asked = np.array([i for i, other in enumerate(tags) if other == tag], dtype=np.int64)
        queries, known_prompts = [prompts[i] for i in asked], [train.prompts[row] for row in rows]
        for places, distances in _distances(queries, known_prompts):
            some = asked[places]
            itself = rows == np.asarray(own_rows)[some][:, None]
            distances[itself] = np.iinfo(np.int32).max
            found = distances.argmin(axis=1)
            known = ~itself[np.arange(len(some)), found]  # else it is the only row of its tag
            nearest[some[known]] = rows[found[known]]
            least[some[known]] = distances[np.arange(len(some)), found][known]
    return nearest, least


def majority_answers(tags: Sequence[str], train: TrainingTexts) -> list[str]:
    """The commonest training answer of each tag; of several, the first by code points."""

    def answer(queries: list[str], rows: list[tuple[str, str]], tag: str) -> list[str]:
        counts = Counter(text for _, text in rows)
        return [min(counts, key=lambda text: (-counts[text], text))] * len(queries)

    return _by_tag(tags, tags, train, answer)


def chance_exact_match(n_legal: Sequence[int]) -> float:
    """Exact match of guessing evenly among each example's legal answers: mean of 1 / n_legal. 0..1.

    n_legal int [n], how many answers the form of each example admits, from 1 on; nan if there is
    none. Their log2-probability under this guess is -log2(n_legal). ValueError below 1.
    """
    if odd := [n for n in n_legal if not n >= 1]:
        raise ValueError(f"n_legal must be 1 or more, got {odd}")
    # One by one: a Python int may be too large for a float, and its share is then 0.
    return float(np.mean([1 / n for n in n_legal])) if len(n_legal) else math.nan


def chance_of(tasks: Sequence[str], answers: Sequence[str]) -> float | None:
    """chance_exact_match of answers, each of its task; None if one has no known form."""
    rows = zip(tasks, answers, strict=True)
    try:
        return chance_exact_match([TASKS[task].n_legal(answer) for task, answer in rows])
    except (KeyError, ValueError):
        return None


# ----------------------------------------------------------------------------------------------
# Longest-suffix n-gram
# ----------------------------------------------------------------------------------------------


def _suffix_array(codes: np.ndarray, depth: int) -> np.ndarray:
    """Starts of all suffixes of a text, sorted by their first `depth` characters or more.

    Prefix doubling (Manber and Myers 1993): ranks by 2k characters come from two ranks by k.
    """
    n = len(codes)
    _, rank = np.unique(codes, return_inverse=True)
    seen = 1
    while seen < depth and rank.max() < n - 1:
        later = np.zeros(n, dtype=np.int64)  # 0: the text ends before
        later[: n - seen] = rank[seen:] + 1
        _, rank = np.unique(rank * (n + 1) + later, return_inverse=True)
        seen *= 2
    return np.argsort(rank, kind="stable")


class _SuffixModel:
    """Next characters after the longest suffix of a context that one training text contains."""

    def __init__(self, rows: list[tuple[str, str]]):
        lines = [f"{prompt} | {answer}{END}" for prompt, answer in rows]
        self.text = "".join(lines)
        self.codes = np.array([ord(character) for character in self.text])
        self.longest_line = max(map(len, lines))
        self.starts = _suffix_array(self.codes, self.longest_line)
        self.known = {}  # context -> next character; contexts recur at the start of answers

    def occurrences(self, suffix: str) -> np.ndarray:
        """Where the suffix starts in the text."""

        def head(start: int) -> str:
            return self.text[start : start + len(suffix)]

        low = bisect_left(self.starts, suffix, key=head)
        return self.starts[low : bisect_right(self.starts, suffix, lo=low, key=head)]

    def next_character(self, context: str) -> str:
        """The commonest follower of the longest known suffix; of several, the first by code point.

        If a suffix occurs, so do all shorter ones: its length is found by bisection. No context
        holds END, so that each occurrence lies within one line and has a follower.
        """
        if context not in self.known:
            occurs, too_long = 0, min(len(context), self.longest_line) + 1
            found = self.starts  # of the empty suffix
            while too_long - occurs > 1:
                length = (occurs + too_long) // 2
                places = self.occurrences(context[-length:])
                if len(places):
                    occurs, found = length, places
                else:
                    too_long = length
            followers, counts = np.unique(self.codes[found + occurs], return_counts=True)
            self.known[context] = chr(followers[counts.argmax()])
        return self.known[context]

    def answer(self, prompt: str) -> str:
        # This ends: the suffix holds the whole answer so far, which goes on within some line.
        context, answer = f"{prompt} | ", ""
        while (character := self.next_character(context + answer)) != END:
            answer += character
        return answer


def suffix_answers(prompts: Sequence[str], tags: Sequence[str], train: TrainingTexts) -> list[str]:
    """Greedy answers of an n-gram of unbounded n over the training lines of the same tag.

    After `prompt | `, character by character: the longest suffix of what stands there that occurs
    in a training line `prompt | answer` decides by its commonest next character, ties to the first
    by code point, until the line ends (infini-gram, Liu et al. 2024, arXiv:2401.17377). A prompt of
    the training set gets its own answer. Every other gets how some line ends, as a rule a training
    answer: what follows its ` | ` always occurs there. ValueError for a text with a line break.
    """
    for texts in (prompts, train.prompts, train.answers):
        if any(END in text for text in texts):
            raise ValueError("a prompt or an answer holds a line break, and an example is one line")

    def answer(queries: list[str], rows: list[tuple[str, str]], tag: str) -> list[str]:
        if tag not in train.suffix_models:  # seconds for 50,000 rows, so for several suites once
            train.suffix_models[tag] = _SuffixModel(rows)
        model = train.suffix_models[tag]
        return [model.answer(query) for query in queries]

    return _by_tag(prompts, tags, train, answer)


# ----------------------------------------------------------------------------------------------
# Beside a rate: what lookup gets right
# ----------------------------------------------------------------------------------------------

LOOKUPS = ("nearest", "suffix", "majority")


def lookup_answers(
    prompts: Sequence[str], tags: Sequence[str], train: TrainingTexts
) -> dict[str, list[str]]:
    """Each of LOOKUPS -> what it answers."""
    return {
        "nearest": nearest_answers(prompts, tags, train),
        "suffix": suffix_answers(prompts, tags, train),
        "majority": majority_answers(tags, train),
    }


def some_rows(examples: Examples, rows: np.ndarray, at_most: int, characters: int) -> np.ndarray:
    """`rows`, int64 [n], or a random part of them of so many rows and characters; at least one.

    The same part each time, in the order of `rows`.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    fit = np.cumsum(examples.lengths[rows[order]], dtype=np.int64) <= characters
    return rows[np.sort(order[: max(1, min(at_most, int(fit.sum())))])]


def _columns(examples: Examples, rows: np.ndarray) -> tuple[list[str], list[str], list[str]]:
    """Tags, prompts without tag and bar, and answers of these rows."""
    tags = [examples.tags[i] for i in rows]
    return tags, [examples.bare_prompt(i) for i in rows], [examples.answer(i) for i in rows]


def training_texts(examples: Examples) -> TrainingTexts:
    """The rows of a training set that lookup looks in: at most 50,000, and 3,000,000 characters."""
    rows = some_rows(examples, np.arange(len(examples)), 50_000, 3_000_000)
    return TrainingTexts(*_columns(examples, rows))


@dataclass(frozen=True)
class Lookup:
    """Which examples each baseline of LOOKUPS answers, and from how many training rows."""

    rows: np.ndarray  # int64 [n]: the examples that were asked, ascending
    right: dict[str, np.ndarray]  # baseline -> bool [n]
    n_train: int

    def rates(self, rows: np.ndarray) -> dict | None:
        """{"n", "n_train", and each baseline's exact match} on `rows`; None if none was asked."""
        asked = np.isin(self.rows, rows)
        n = int(asked.sum())
        rates = {name: float(right[asked].mean()) for name, right in self.right.items() if n}
        return {"n": n, "n_train": self.n_train, **rates} if n else None


def look_up(examples: Examples, rows: np.ndarray, train: TrainingTexts) -> Lookup:
    """Ask the baselines for `rows`, int64 [n] ascending; at most 2,500 and 200,000 characters."""
    rows = some_rows(examples, rows, 2_500, 200_000)
    tags, prompts, answers = _columns(examples, rows)
    found = lookup_answers(prompts, tags, train)
    known = np.isin(tags, list(set(train.tags)))
    right = {
        name: known & (np.array(texts, dtype=object) == np.array(answers, dtype=object))
        for name, texts in found.items()
    }
    return Lookup(rows, right, len(train.tags))


def mean_lookup(rates: Sequence[dict | None]) -> dict | None:
    """The mean over seeds of Lookup.rates, which differ where each seed has rows of its own."""
    known = [rate for rate in rates if rate]
    if not known:
        return None
    return {**known[0], **{name: float(np.mean([r[name] for r in known])) for name in LOOKUPS}}


def lookup_words(rates: dict | None) -> str:
    """The best baseline in a column of a table: `7.8% nearest`; `-` where nothing was looked up."""
    if not rates:
        return "-"
    best = max(LOOKUPS, key=rates.get)  # the first of equals
    return f"{rates[best]:.1%} {best}" if rates[best] else "0.0%"


# ----------------------------------------------------------------------------------------------
# n-gram of the answers, as the baseline of a bit budget
# ----------------------------------------------------------------------------------------------


def ngram_log2_probs(
    answers: Sequence[str],
    tags: Sequence[str],
    train: TrainingTexts,
    n_characters: int,
    order: int = 3,
) -> np.ndarray:
    """log2-probability of each whole answer and its end under an n-gram of the training answers.

    float64 [n], bits, below 0. Prompts are not read: this is what the look of a tag's answers gives
    away. P(c | h) = (count(h c) + kinds(h) P(c | h without its first character)) / (count(h) +
    kinds(h)), where h is up to order - 1 characters back to the start of the answer, kinds(h) is
    how many different characters follow h in training, and below the empty h stands the even
    1 / (n_characters + 1) (Witten and Bell 1991, interpolated). So all answers over n_characters
    characters have probabilities that sum to 1, and none is 0. A tag without training rows is even.
    An answer's own row is counted where it is a training row: keep the order low. ValueError for
    fewer n_characters than occur, and for order < 1.
    """
    if len(answers) != len(tags):
        raise ValueError(f"lengths differ: {len(answers)} answers, {len(tags)} tags")
    used = {character for text in (*answers, *train.answers) for character in text}
    if order < 1 or n_characters < len(used):
        raise ValueError(
            f"need order >= 1 and n_characters >= {len(used)}, got {order} and {n_characters}"
        )
    # A history begins with its tag, so that one table serves all tags.
    followers = defaultdict(Counter)
    for tag, text in zip(train.tags, train.answers, strict=True):
        for place, character in enumerate([*text, END]):
            for back in range(min(order - 1, place) + 1):
                followers[tag, text[place - back : place]][character] += 1
    totals = {history: counts.total() for history, counts in followers.items()}

    def log2_prob(tag: str, text: str) -> float:
        bits = 0.0
        for place, character in enumerate([*text, END]):
            p = 1 / (n_characters + 1)
            for back in range(min(order - 1, place) + 1):
                history = tag, text[place - back : place]
                if history not in totals:
                    break  # nor is any longer one
                kinds = len(followers[history])
                p = (followers[history][character] + kinds * p) / (totals[history] + kinds)
            bits += math.log2(p)
        return bits

    known = {pair: log2_prob(*pair) for pair in set(zip(tags, answers, strict=True))}
    return np.array([known[pair] for pair in zip(tags, answers, strict=True)], dtype=np.float64)
