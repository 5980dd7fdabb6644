"""What two sets of rows say against each other: answers that contradict, and forms that differ.

A form is how a row is written, not what it says: spare white space, tabs, leading zeros, full-width
digits. A model that has the rule fails on a form that it never saw, and a gap between training and
validation then says nothing about memorization. Each finding is a dict for config.json; `*_notes`
make sentences of them.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain, groupby, pairwise

import numpy as np

from data.formats import Examples, Tokenizer
from data.tasks import keyed_task, task_of_tag

IDS_AT_ONCE = 2**22
LARGE_DIFFERENCE = 0.1  # between the shares of rows that have a form


# ----------------------------------------------------------------------------------------------
# Labels
# ----------------------------------------------------------------------------------------------


def conflicting_labels(sets: dict[str, Examples]) -> dict:
    """Rows that share a canonical key with a row of another answer, in one file or across files.

    "contradictory" are those whose prompts are the same but for white space: no rule gives both
    answers. "other" ones (`[rev] 01 | 10` beside `[rev] 1 | 1`) may all be right. Either way rows
    of different answers are different examples. Returns for both kinds {"rows": {file: rows},
    "first": two of them that disagree}.
    """
    names, examples = list(sets), list(sets.values())
    canonical = np.concatenate([e.prompt_keys for e in examples])
    _, first = np.unique(np.concatenate([e.keys for e in examples]), return_index=True)
    values, n_answers = np.unique(canonical[first], return_counts=True)
    rows = np.flatnonzero(np.isin(canonical, values[n_answers > 1]))
    rows = rows[np.argsort(canonical[rows], kind="stable")]
    starts = np.cumsum([0, *map(len, examples)])
    counts = {kind: dict.fromkeys(names, 0) for kind in ("contradictory", "other")}
    pairs = {}
    for _, group in groupby(rows, canonical.__getitem__):
        by_prompt = defaultdict(list)  # prompt -> [(row, answer, file)]
        for row in group:
            file = int(np.searchsorted(starts, row, side="right")) - 1
            i = row - starts[file]
            prompt = " ".join(examples[file].prompt(i).split())
            by_prompt[prompt].append((row, examples[file].answer(i), file))
        for same_prompt in by_prompt.values():
            first = same_prompt[0]
            rivals = [other for other in same_prompt if other[1] != first[1]]
            kind = "contradictory" if rivals else "other"
            for _, _, file in same_prompt:
                counts[kind][names[file]] += 1
            if kind not in pairs or first[0] < pairs[kind][0][0]:
                rivals = rivals or chain(*by_prompt.values())
                pairs[kind] = first, next(other for other in rivals if other[1] != first[1])
    return {
        kind: {
            "rows": counts[kind],
            "first": [
                located(names[file], examples[file], row - starts[file])
                for row, _, file in pairs.get(kind, ())
            ],
        }
        for kind in counts
    }


def located(name: str, examples: Examples, i: int) -> dict:
    """Where row i of a file stands, and its text."""
    return {"file": name, "place": examples.place(i), "row": examples.raw(i)[:200]}


def label_notes(labels: dict) -> list[str]:
    """Sentences about conflicting_labels."""
    what = {
        "contradictory": "contradict each other: the same prompt, another answer",
        "other": "share a canonical key with a row of another answer and count as examples of "
        "their own",
    }
    notes = []
    for kind, found in labels.items():
        if n := sum(found["rows"].values()):
            where = ", ".join(f"{name} {k:,}" for name, k in found["rows"].items() if k)
            pair = " and ".join(
                f"{row['row']!r} ({row['file']}, {row['place']})" for row in found["first"]
            )
            notes.append(f"{n:,} rows ({where}) {what[kind]}; the first: {pair}")
    return notes


def empty_answers(sets: dict[str, Examples]) -> dict:
    """Rows without an answer, as of an empty cell of a table: {"rows": {file: rows}, "first": …}.

    They teach that nothing follows the prompt. "first" is the first of them, or None.
    """
    found = {name: np.flatnonzero(e.lengths == e.answer_start) for name, e in sets.items()}
    first = [located(name, sets[name], int(rows[0])) for name, rows in found.items() if len(rows)]
    rows = {name: len(rows) for name, rows in found.items()}
    return {"rows": rows, "first": first[0] if first else None}


def empty_notes(empty: dict) -> list[str]:
    """The sentence about empty_answers."""
    first = empty["first"]
    if first is None:
        return []
    where = ", ".join(f"{name} {n:,}" for name, n in empty["rows"].items() if n)
    return [
        f"rows with an empty answer: {where}; the first is {first['place']} of {first['file']}: "
        f"{first['row']!r}"
    ]


def one_answer(train: Examples) -> dict[str, str]:
    """Task -> the answer that all its training rows have, of tasks with several prompts."""
    found = {}
    for code, name in enumerate(train.tasks.names):
        rows = np.flatnonzero(train.tasks.codes == code)
        if len(rows) > 1:
            first = train.answer(rows[0])
            if all(train.answer(i) == first for i in rows[1:]):  # ends at the first other one
                found[name] = first
    return found


def keyed_by_text(sets: dict[str, Examples]) -> dict[str, int]:
    """Tags named after a task that may stand for another rule -> how many rows have them.

    Their prompts are equal only where their texts are: see data.tasks.keyed_task.
    """
    rows = Counter()
    for examples in sets.values():
        rows.update(examples.tags.counts())
    return {tag: rows[tag] for tag in sorted(rows) if task_of_tag(tag) and not keyed_task(tag)}


# ----------------------------------------------------------------------------------------------
# Forms
# ----------------------------------------------------------------------------------------------


class Characters:
    """Which ids of a vocabulary are of which kind: bool [vocabulary] each."""

    def __init__(self, tokenizer: Tokenizer):
        def which(test):
            return np.array([len(token) == 1 and bool(test(token)) for token in tokenizer.itos])

        self.white = which(str.isspace)
        self.odd_white = which(lambda c: c.isspace() and c != " ")
        self.digit = which(lambda c: c in "0123456789")
        self.zero = which(lambda c: c == "0")
        self.word = which(str.isalnum)
        self.sign = which(
            lambda c: (
                not (c.isalnum() or c.isspace() or c in "[]|_")
                and unicodedata.category(c)[0] != "M"  # a combining mark belongs to its letter
            )
        )
        self.other_form = which(
            lambda c: unicodedata.normalize("NFKC", c) != c or unicodedata.combining(c)
        )


def forms_between(examples: Examples, kinds: Characters, low: int, high: int) -> dict:
    """form -> int64: the rows in [low, high) that have it, ascending."""
    starts = examples.starts[low:high].astype(np.int64)
    answer_start = examples.answer_start[low:high]
    lengths = examples.lengths[low:high]
    origin, last = starts[0], starts + lengths - 1
    ids = examples.ids[origin : last[-1] + 1]  # an <eos>, of no kind, stands between two rows
    starts -= origin

    def row_at(mask):
        """The block's row of every position in a mask, and the position in that row."""
        positions = np.flatnonzero(mask)
        rows = np.searchsorted(starts, positions, side="right") - 1
        return rows, positions - starts[rows]

    def before(mask):
        return np.concatenate(([False], mask[:-1]))

    def after(mask):
        return np.concatenate((mask[1:], [False]))

    white, digit, word = kinds.white[ids], kinds.digit[ids], kinds.word[ids]
    doubled, place = row_at(white & before(white))
    in_answer = place >= answer_start[doubled]
    found = {
        "white space at the end of the answer": np.flatnonzero(
            kinds.white[examples.ids[last]] & (lengths > answer_start)
        ),
        "doubled or leading white space in the answer": doubled[in_answer],
        "doubled or outer white space in the prompt": doubled[~in_answer],
        "white space that is no plain space": row_at(kinds.odd_white[ids])[0],
        "characters of another Unicode form": row_at(kinds.other_form[ids])[0],
        "numbers with leading zeros": row_at(kinds.zero[ids] & ~before(digit) & after(digit))[0],
        "signs without spaces around": row_at(kinds.sign[ids] & (before(word) | after(word)))[0],
    }
    return {form: low + np.unique(rows) for form, rows in found.items()}


def blocks(examples: Examples) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of blocks of some IDS_AT_ONCE characters."""
    marks = np.arange(0, int(examples.starts[-1]) + 1, IDS_AT_ONCE)
    cuts = np.unique(np.searchsorted(examples.starts, marks))
    return pairwise([*cuts.tolist(), len(examples)])


class Forms:
    """How the rows of a file are written, in little memory: what form_differences compares."""

    def __init__(self, name: str, examples: Examples, tokenizer: Tokenizer):
        self.name, self.itos = name, tokenizer.itos
        self.rows = examples.tags.counts()  # tag -> rows
        self.characters = np.zeros(len(tokenizer), bool)  # those that occur
        self.characters[tokenizer.eos] = True  # it stands between rows, of which there may be one
        self.having = defaultdict(Counter)  # form -> tag -> rows that have it
        self.first = {}  # (form, tag) -> the first of them, located
        self.kinds = Characters(tokenizer)
        for low, high in blocks(examples):
            end = examples.starts[high - 1] + examples.lengths[high - 1]
            self.characters[examples.ids[examples.starts[low] : end]] = True
            for form, rows in forms_between(examples, self.kinds, low, high).items():
                self.add(form, examples, rows)

    def add(self, form: str, examples: Examples, rows) -> None:
        """Count rows that have a form."""
        codes, first, counts = np.unique(
            examples.tags.codes[rows], return_index=True, return_counts=True
        )
        for code, at, n in zip(codes, first, counts, strict=True):
            tag = examples.tags.names[code]
            self.having[form][tag] += int(n)
            row = int(rows[at])
            self.first.setdefault((form, tag), (row, located(self.name, examples, row)))

    def add_new_characters(self, examples: Examples, trained: "Forms") -> None:
        """Count rows with characters that no row of `trained` has, as a form of their own."""
        new = self.characters & ~trained.characters & ~self.kinds.odd_white & ~self.kinds.other_form
        if not new.any():
            return
        positions = np.flatnonzero(new[examples.ids])
        rows = np.unique(np.searchsorted(examples.starts, positions, side="right") - 1)
        rows = rows[examples.tags.isin(trained.rows)[rows]]
        if len(rows):
            start = examples.starts[rows[0]]
            ids = examples.ids[start : start + examples.lengths[rows[0]]]
            character = self.itos[ids[new[ids]][0]]
            form = (
                f"characters that {trained.name} lacks, as {character!r} (U+{ord(character):04X})"
            )
            self.add(form, examples, rows)


def form_differences(one: Forms, two: Forms) -> list[dict]:
    """Forms that rows of one file have and rows of the same tags in the other hardly have.

    A form counts where one of the two has none of it, or their shares of rows differ by more than a
    tenth and more than chance allows. Returns for each {"form", "file", "rows",
    "of", "other", "other_rows", "other_of", "first"}: so many rows of so many here and there.
    """
    differences = []
    common = [tag for tag in one.rows if tag in two.rows]
    for form in dict.fromkeys([*one.having, *two.having]):
        for here, there in ((one, two), (two, one)):
            tags = [tag for tag in common if differs(form, tag, here, there)]
            if tags:
                differences.append(
                    {
                        "form": form,
                        "file": here.name,
                        "rows": sum(here.having[form][tag] for tag in tags),
                        "of": sum(here.rows[tag] for tag in tags),
                        "other": there.name,
                        "other_rows": sum(there.having[form][tag] for tag in tags),
                        "other_of": sum(there.rows[tag] for tag in tags),
                        "first": min(here.first[form, tag] for tag in tags)[1],
                    }
                )
    return differences + tags_written_otherwise(one, two)


def differs(form: str, tag: str, here: Forms, there: Forms) -> bool:
    """Whether rows of a tag have a form so much more often here than there."""
    k, n = here.having[form][tag], here.rows[tag]
    other_k, other_n = there.having[form][tag], there.rows[tag]
    pooled = (k + other_k) / (n + other_n)
    chance = 3 * (pooled * (1 - pooled) * (1 / n + 1 / other_n)) ** 0.5  # 3 standard errors
    difference = k / n - other_k / other_n
    return difference > 0 and (other_k == 0 or difference > max(LARGE_DIFFERENCE, chance))


def tags_written_otherwise(one: Forms, two: Forms) -> list[dict]:
    """Tags of `two` that `one` has in another case, Unicode form or spacing only."""

    def plain(tag):
        return " ".join(unicodedata.normalize("NFKC", tag).casefold().split())

    known = {plain(tag): tag for tag in one.rows}
    pairs = [(tag, known.get(plain(tag))) for tag in two.rows if tag not in one.rows]
    return [
        {
            "form": f"the tag {tag!r}",
            "file": two.name,
            "rows": two.rows[tag],
            "of": sum(two.rows.values()),
            "other": one.name,
            "other_rows": 0,
            "other_of": one.rows[twin],
            "first": None,
            "twin": twin,
        }
        for tag, twin in pairs
        if twin
    ]


def form_notes(differences: list[dict]) -> list[str]:
    """Sentences about form_differences."""
    notes = []
    for d in differences:
        if d["first"] is None:
            notes.append(
                f"{d['rows']:,} of {d['of']:,} rows of {d['file']} have {d['form']}, which "
                f"{d['other']} writes {d['twin']!r}"
            )
            continue
        first = d["first"]
        notes.append(
            f"{d['rows']:,} of {d['of']:,} rows of {d['file']} have {d['form']}, "
            f"{d['other_rows'] or 'none'} of {d['other_of']:,} of {d['other']}; the first is "
            f"{first['place']}: {first['row']!r}"
        )
    return notes
