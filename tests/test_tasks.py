"""Tasks: rows, tags, keys and random draws, checked by solvers that are written again."""

import doctest
import hashlib
import random
import re
from collections import Counter
from itertools import pairwise
from string import ascii_uppercase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import generate, tasks
from data.tasks import canonical_key, canonical_tag, split_example, split_of, task_of_tag
from solvers import halves, insertion_sort, solve


def test_worked_examples():
    result = doctest.testmod(tasks)
    assert result.attempted >= 15
    assert result.failed == 0


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_documents_two_worked_examples(task):
    documentation = getattr(tasks, f"answer_{task}").__doc__
    assert documentation.count(">>>") == 2
    raw = re.match("`(.*?)`", documentation)[1]
    tag, prompt, answer = halves(raw)
    assert tag == task
    assert solve(tag, prompt) == answer


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("[add] 41 + 465 | 506", ("add", "41 + 465", "506")),
        ("[rev] [sort] 3 1 2 | 3 2 1", ("rev", "[sort] 3 1 2", "3 2 1")),
        ("[sort_desc] 1 2 | 2 1", ("sort_desc", "1 2", "2 1")),
        ("[copy] a | b | a | b", ("copy", "a | b | a", "b")),
        ("[add]  1  +  2  | 3", ("add", " 1  +  2 ", "3")),
        ("[my task] x | y", ("my task", "x", "y")),
        ("[copy]  | ", ("copy", "", "")),
        ("[copy] a|b | c|d", ("copy", "a|b", "c|d")),
    ],
)
def test_split_example(raw, expected):
    assert split_example(raw) == expected
    assert "[{}] {} | {}".format(*expected) == raw


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "[add] 1 + 2",
        "[add] 1 + 2 |3",
        "[add] 1 + 2| 3",
        "[add]1 + 2 | 3",
        "[] 1 | 1",
        "add: 1 + 2 | 3",
        "add] 1 + 2 | 3",
        " [add] 1 + 2 | 3",
        "[add | 3",
        "[add] | 3",
        "[add] 1 + 2 | 3\n",
        "[add] 1 +\n2 | 3",
        "[a[b]] 1 | 1",
    ],
)
def test_split_example_refuses_what_is_not_a_row(raw):
    with pytest.raises(ValueError, match=re.escape("'[tag] prompt | answer'")):
        split_example(raw)


def test_split_example_shows_the_row_but_not_all_of_a_long_one():
    with pytest.raises(ValueError, match="'no tag here'"):
        split_example("no tag here")
    with pytest.raises(ValueError, match=r"\.\.\.") as error:
        split_example("x" * 5000)
    assert len(str(error.value)) < 150


@pytest.mark.parametrize(
    ("tag", "task", "canonical"),
    [
        *((task, task, task) for task in tasks.TASKS),
        ("sort_asc", "sort", "sort"),
        ("sort_desc", "sort", "sort_desc"),
        ("sorting_desc_extrap", "sort", "sorting_desc_extrap"),
        ("sort_anything", "sort", "sort"),
        ("sorting_extrap", "sort", "sort"),
        ("reversing_extrap", "rev", "rev"),
        ("copying_extrap", "copy", "copy"),
        ("addition_extrap", "add", "add"),
        ("adding_interp", "add", "add"),
        ("relational_extrap", "rel", "rel"),
        ("relation_extrap", "rel", "rel"),
        ("max", None, "max"),
        ("address", None, "address"),
        ("copycat", None, "copycat"),
        ("", None, ""),
        ("_sort", None, "_sort"),
    ],
)
def test_tags(tag, task, canonical):
    assert task_of_tag(tag) == task
    assert canonical_tag(tag) == canonical


numbers = st.integers(0, 10**6)
number_lists = st.lists(numbers, min_size=1, max_size=12)


@given(numbers, numbers)
def test_add_keys_commute(a, b):
    low, high = sorted((a, b))
    expected = f"[add] {low} + {high}"
    assert canonical_key("add", f"{a} + {b}") == expected
    assert canonical_key("add", f"{b} + {a}") == expected


@given(numbers, numbers, numbers, numbers)
def test_add_keys_tell_pairs_apart(a, b, c, d):
    same = sorted((a, b)) == sorted((c, d))
    assert (canonical_key("add", f"{a} + {b}") == canonical_key("add", f"{c} + {d}")) == same


@given(number_lists, st.randoms())
def test_sort_keys_ignore_order_and_sequence_keys_do_not(items, rng):
    mixed = list(items)
    rng.shuffle(mixed)
    before, after = " ".join(map(str, items)), " ".join(map(str, mixed))
    assert canonical_key("sort", before) == canonical_key("sort", after)
    assert canonical_key("sort", before) == "[sort] " + " ".join(map(str, insertion_sort(items)))
    for tag in ("copy", "rev"):
        assert (canonical_key(tag, before) == canonical_key(tag, after)) == (items == mixed)


@given(number_lists, number_lists)
def test_sort_keys_are_multisets(a, b):
    keys = [canonical_key("sort", " ".join(map(str, items))) for items in (a, b)]
    assert (keys[0] == keys[1]) == (Counter(a) == Counter(b))


@given(
    st.lists(st.sampled_from(ascii_uppercase), min_size=3, max_size=12, unique=True),
    st.randoms(),
    st.sampled_from(("up", "down")),
    st.integers(1, 6),
)
def test_rel_keys_ignore_the_order_of_facts_and_nothing_else(people, rng, direction, hops):
    facts = [f"{parent}>{child}" for parent, child in pairwise(people)]
    question = f"{direction} {hops} {people[0]}"
    key = canonical_key("rel", f"{' '.join(facts)} ? {question}")
    mixed = list(facts)
    rng.shuffle(mixed)
    assert canonical_key("rel", f"{' '.join(mixed)} ? {question}") == key
    assert canonical_key("rel", f"{' '.join(facts)}  ?up 9 Z") != key
    assert canonical_key("rel", f"{' '.join(facts[1:])} ? {question}") != key
    assert canonical_key("rel", f"{' '.join(facts)} ? {direction} {hops + 1} {people[0]}") != key
    assert canonical_key("rel", f"{' '.join(facts)} ? {direction} {hops} {people[1]}") != key


@given(st.randoms(use_true_random=False), st.sampled_from(tasks.TASKS))
@settings(max_examples=200)
def test_keys_ignore_spaces_and_leading_zeros(rng, task):
    tag, prompt, _ = split_example(tasks.draw_example(rng, task))
    key = canonical_key(tag, prompt)
    spaced = re.sub(" ", lambda _: " " * rng.randint(1, 3), f" {prompt} ")
    zeros = re.sub(r"\d+", lambda number: "0" * rng.randint(0, 2) + number[0], prompt)
    assert canonical_key(tag, spaced) == key
    assert canonical_key(tag, zeros) == key
    if task in ("add", "rel"):
        assert canonical_key(tag, re.sub(r" ?([+>?]) ?", r" \1 ", prompt)) == key
        assert canonical_key(tag, re.sub(r" ?([+>?]) ?", r"\1", prompt)) == key


@given(st.randoms(use_true_random=False), st.sampled_from(tasks.TASKS), st.integers(0, 9))
@settings(max_examples=200)
def test_any_draw_of_any_size_is_right_has_its_size_and_one_owner(rng, task, size):
    sizes = list(tasks.SYSTEMATIC_SIZES[task])
    wanted = sizes[size * len(sizes) // 10]
    raw = tasks.draw_example(rng, task, wanted)
    tag, prompt, answer = split_example(raw)
    assert (tag, prompt, answer) == halves(raw)
    assert answer == solve(tag, prompt)
    assert tasks.size_of(raw) == wanted
    # Other writings of the example have its owner, whatever else may be there.
    owner = split_of(canonical_key(tag, prompt))
    if task == "add":
        other = " + ".join(f"0{number}" for number in reversed(prompt.split(" + ")))
    elif task == "sort":
        other = "  ".join(sorted(prompt.split()))
    elif task == "rel":
        facts, question = prompt.split(" ? ")
        other = f"{' '.join(sorted(facts.split()))} ?{question}"
    else:
        other = f" {prompt} "
    assert split_of(canonical_key(tag, other)) == owner


line = st.text(st.characters(exclude_characters="\n"), max_size=12)


@given(st.text(st.characters(exclude_characters="[]\n"), min_size=1), line, line)
def test_the_parser_inverts_what_writes_a_row(tag, prompt, answer):
    tag_, prompt_, answer_ = split_example(f"[{tag}] {prompt} | {answer}")
    assert f"[{tag_}] {prompt_} | {answer_}" == f"[{tag}] {prompt} | {answer}"
    assert tag_ == tag
    assert " | " not in answer_
    if "|" not in prompt + answer:
        assert (prompt_, answer_) == (prompt, answer)


@given(st.text(max_size=30))
def test_any_text_is_a_row_or_a_value_error(text):
    try:
        tag, prompt, answer = split_example(text)
    except ValueError:
        assert not re.fullmatch(r"\[[^\[\]\n]+\] .* \| .*", text)
    else:
        assert f"[{tag}] {prompt} | {answer}" == text


def test_owners_of_known_keys_never_change():
    """Splits made years apart must stay disjoint."""
    keys = ["[add] 1 + 2", "[copy] 5 27 9", "[rev] 5 27 9", "[sort] 5 9 27", "[add] 999 + 999"]
    keys += ["[rel] B>K F>B K>A ? up 2 A", "[copy] 3", "[sort_desc] 1 2 3", "[mul] 2 * 3"]
    owners = "train train val train ood train train ood train"
    assert " ".join(map(split_of, keys)) == owners


@given(st.text(max_size=20), st.text(max_size=60))
def test_keys_never_raise_and_ignore_whitespace_runs(tag, prompt):
    key = canonical_key(tag, prompt)
    assert key == canonical_key(tag, f"  {prompt}\t")
    assert key.startswith(f"[{tag}]")
    assert split_of(key) in ("train", "val", "ood")


@pytest.mark.parametrize(
    ("tag", "prompt", "key"),
    [
        ("sort_desc", "3 1 2", "[sort_desc] 1 2 3"),
        ("add", "12 + 7 + 105", "[add] 12 + 7 + 105"),
        ("add", "-3 + 4", "[add] -3 + 4"),
        ("add", "000 + 00", "[add] 0 + 0"),
        ("sort", "10 9 100 9", "[sort] 9 9 10 100"),
        ("sort", "b a", "[sort] b a"),
        ("rev", "[sort]  3 1", "[rev] [sort] 3 1"),
        ("rel", "K>A K>A B>K ? up 02 A", "[rel] B>K K>A ? up 2 A"),
        ("rel", "K>A ? who is A", "[rel] K>A ? who is A"),
        ("max", "3  1", "[max] 3 1"),
        ("copy", "²  ٣", "[copy] ² ٣"),
        ("copy", "", "[copy] "),
        ("copy", "0" * 5000 + "7" * 5000, "[copy] " + "7" * 5000),
    ],
)
def test_canonical_keys_by_hand(tag, prompt, key):
    assert canonical_key(tag, prompt) == key


def test_ownership_is_a_hash_of_the_key_in_six_one_one_eighths():
    keys = [f"[copy] {i}" for i in range(40_000)]
    for key in keys[:1000]:
        eighth = int(hashlib.sha256(key.encode()).hexdigest()[0], 16) // 2
        assert split_of(key) == ("val" if eighth == 0 else "ood" if eighth == 1 else "train")
    shares = Counter(map(split_of, keys))
    assert shares["val"] == pytest.approx(5000, abs=250)
    assert shares["ood"] == pytest.approx(5000, abs=250)
    # Short sums are few: validation and the suites must leave most of them to training.
    short = [f"[add] {a} + {b}" for a in range(10) for b in range(a, 10)]
    assert Counter(map(split_of, short)) == {"train": 44, "ood": 6, "val": 5}
    assert {split_of(f"[add] {a} + {b}") for a in range(990, 1000) for b in range(a, 1000)} == {
        "ood"
    }


def test_take_stops_where_there_is_no_more():
    rng = random.Random(0)
    rows = generate.take(10, lambda: tasks.add_row(tasks.pick(rng, (1, 2)), 0), None)
    assert sorted(rows) == ["[add] 1 + 0 | 1", "[add] 2 + 0 | 2"]


def test_chance_is_uniform_and_a_shuffle_loses_nothing():
    rng = random.Random(3)
    picked = Counter(tasks.pick(rng, "abc") for _ in range(9000))
    assert all(n == pytest.approx(3000, abs=200) for n in picked.values())
    orders = Counter("".join(tasks.shuffled(rng, "abc")) for _ in range(6000))
    assert len(orders) == 6
    assert all(n == pytest.approx(1000, abs=130) for n in orders.values())
    assert {tasks.draw_number(rng, 1) for _ in range(500)} == set(range(10))
    three = [tasks.draw_number(rng, 3) for _ in range(20_000)]
    assert (min(three), max(three)) == (100, 999)
