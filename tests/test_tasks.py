"""Tasks: rows, tags, keys and random draws, checked by solvers that are written again."""

import doctest
import hashlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from string import ascii_uppercase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import generate, own_sets, tasks
from data.tasks import canonical_key, canonical_tags, split_example, split_of, task_of_tag
from solvers import halves, insertion_sort, solve


def test_worked_examples():
    for module, at_least in ((tasks, 25), (own_sets, 2)):
        result = doctest.testmod(module)
        assert result.attempted >= at_least
        assert result.failed == 0


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_documents_two_worked_examples(task):
    documentation = getattr(tasks, f"answer_{task}").__doc__
    assert documentation.count(">>>") == 2
    rows = [re.match("`(.*?)`", documentation)[1], *tasks.TASKS[task].examples]
    assert len(rows) == 3
    for raw in rows:
        tag, prompt, answer = halves(raw)
        assert tag == task
        assert solve(tag, prompt) == answer == tasks.TASKS[task].answer(prompt)


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
        ("sort_ascending_extrap", "sort", "sort"),
        ("sort_anything", "sort", "sort_anything"),
        ("copy_asc", "copy", "copy_asc"),
        ("add_twice", "add", "add_twice"),
        ("reverse_words", "rev", "reverse_words"),
        ("sort_", "sort", "sort_"),
        ("copy_then_sort", None, "sort copy"),
        ("reverse_then_sort", None, "sort rev"),
        ("sort_then_reverse", None, "rev sort"),
        ("copy_then_reverse_then_sorting_extrap", None, "sort rev copy"),
        ("sort_desc_then_copy", None, "sort_desc_then_copy"),
        ("copy_then_max", None, "copy_then_max"),
        ("add_then_sort", None, "add_then_sort"),
        ("copy_then", None, "copy_then"),
        ("sorting_extrap", "sort", "sort"),
        ("reversing_extrap", "rev", "rev"),
        ("copying_extrap", "copy", "copy"),
        ("addition_extrap", "add", "add"),
        ("adding_interp", "add", "add"),
        ("relational_extrap", "rel", "rel"),
        ("relation_extrap", "rel", "rel"),
        ("add_reversed_extrap", "add_reversed", "add_reversed"),
        ("add_padded_twice", "add_padded", "add_padded_twice"),
        ("add_reverse", "add", "add_reverse"),
        ("mod_long", "mod", "mod"),
        ("recall_then_sort", None, "recall_then_sort"),
        ("modulo", None, "modulo"),
        ("max", None, "max"),
        ("address", None, "address"),
        ("copycat", None, "copycat"),
        ("", None, ""),
        ("_sort", None, "_sort"),
    ],
)
def test_tags(tag, task, canonical):
    assert task_of_tag(tag) == task
    assert canonical_tags(tag) == tuple(canonical.split(" "))


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


@given(st.randoms(use_true_random=False), st.sampled_from(list(tasks.TASKS)))
@settings(max_examples=200)
def test_keys_ignore_spaces_and_leading_zeros(rng, task):
    tag, prompt, _ = split_example(tasks.draw_example(rng, task))
    key = canonical_key(tag, prompt)
    spaced = re.sub(" ", lambda _: " " * rng.randint(1, 3), f" {prompt} ")
    zeros = re.sub(r"\d+", lambda number: "0" * rng.randint(0, 2) + number[0], prompt)
    assert canonical_key(tag, spaced) == key
    if task != "recall":  # whose digits are characters
        assert canonical_key(tag, zeros) == key
    assert canonical_key(tag, re.sub(r" ?([-+*>?]) ?", r" \1 ", prompt)) == key
    assert canonical_key(tag, re.sub(r" ?([-+*>?]) ?", r"\1", prompt)) == key


@pytest.mark.parametrize(
    ("task", "prompt", "key"),
    [
        ("mod", "088 + 57 mod 97", "57 + 88 mod 97"),
        ("mod", "57 * 8 mod 097", "8 * 57 mod 97"),
        ("mod", "57 - 8 mod 97", "57 - 8 mod 97"),
        ("mod", "8-57  mod 97", "8 - 57 mod 97"),
        ("mod", "8 + 57 mod 98", "8 + 57 mod 98"),
        ("mod", "105 + 57 mod 97", "57 + 105 mod 97"),  # 105 is 8 modulo 97, and another prompt
        ("gcd", "84 036", "36 84"),
        ("recall", "K7 B3 Q1 ? B", "B3 K7 Q1 ? B"),
        ("recall", "Q1  K7 B3?B", "B3 K7 Q1 ? B"),
        ("recall", "Q1 K7 B4 ? B", "B4 K7 Q1 ? B"),
        ("add_reversed", "465 + 041", "41 + 465"),
        ("add_padded", "465 + 041", "41 + 465"),
        ("add_padded", "0041+0465", "41 + 465"),
    ],
)
def test_keys_of_tasks_of_own_sets_by_hand(task, prompt, key):
    assert canonical_key(task, prompt) == f"[{task}] {key}"


@pytest.mark.parametrize(
    ("task", "prompts"),
    [
        ("mod", ["1 + 2 mod 0", "1 + 2 mod 00", "1 + 2", "1 / 2 mod 5", "-1 + 2 mod 5", "", "mod"]),
        ("gcd", ["5", "0 5", "5 00", "1 2 3", "a b", "-4 6", ""]),
        ("recall", ["K7 K3 ? K", "K7 K7 ? K", "K7 B3 ? Q", "K07 ? K", "k7 ? k", "K7 B3", ""]),
        ("add_reversed", ["5", "a + b", "", "1 - 2"]),
        ("add_padded", ["5", "a + b", "", "1 - 2"]),
    ],
)
def test_a_prompt_outside_the_grammar_has_no_answer_and_is_its_own_key(task, prompts):
    for prompt in prompts:
        with pytest.raises(ValueError, match=r"is not|does not ask"):
            tasks.TASKS[task].answer(prompt)
        assert canonical_key(task, prompt).startswith(f"[{task}]")
    huge = "9" * 5000
    for text in (f"{huge} + 1 mod {huge}", f"{huge} {huge}", f"{huge} + {huge}"):
        assert len(canonical_key(task, text)) == len(f"[{task}] {text}")
        with pytest.raises(ValueError, match=r"limit|is not|does not ask"):
            tasks.TASKS[task].answer(text)


def test_sums_of_many_digits_are_drawn_over_their_whole_range():
    numbers = [tasks.draw_number(random.Random(seed), 40) for seed in range(400)]
    assert {len(str(number)) for number in numbers} == {40}
    for place in (0, 14, 15, 16, 30, 39):
        digits = {str(number)[place] for number in numbers}
        assert digits == set("0123456789" if place else "123456789")


@given(st.randoms(use_true_random=False), st.sampled_from(list(tasks.TASKS)))
@settings(max_examples=200)
def test_a_rewriting_that_a_record_names_leaves_key_and_answer(rng, task):
    record = tasks.TASKS[task]
    prompt = record.draw(rng, record.training)
    written = {
        "extra_spaces": prompt.replace(" ", " " * rng.randint(2, 3)),
        "leading_zeros": re.sub(r"\d+", lambda number: "0" * rng.randint(0, 2) + number[0], prompt),
        "no_spaces": prompt.replace(" ", ""),
    }
    for kind in record.rewritings:
        assert canonical_key(task, written[kind]) == canonical_key(task, prompt)
        assert record.answer(written[kind]) == record.answer(prompt), kind


@given(st.randoms(use_true_random=False), st.sampled_from(list(tasks.TASKS)), st.integers(0, 9))
@settings(max_examples=200)
def test_any_draw_of_any_size_is_right_has_its_size_and_one_owner(rng, task, size):
    record = tasks.TASKS[task]
    sizes = record.sizes
    wanted = (*sizes[:5], *sizes[-5:])[size] if len(sizes) >= 10 else sizes[size % len(sizes)]
    raw = tasks.draw_example(rng, task, range(wanted, wanted + 1))
    tag, prompt, answer = split_example(raw)
    assert (tag, prompt, answer) == halves(raw)
    assert answer == solve(tag, prompt)
    assert tasks.size_of(raw) == wanted
    # Other writings of the example have its owner, whatever else may be there.
    owner = split_of(canonical_key(tag, prompt))
    if task.startswith("add"):
        other = " + ".join(f"0{number}" for number in reversed(prompt.split(" + ")))
    elif task == "mod" and "-" not in prompt:
        a, operator, b, _, p = prompt.split()
        other = f"{b} {operator} {a} mod {p}"
    elif task == "recall":
        pairs, letter = prompt.split(" ? ")
        other = f"{' '.join(sorted(pairs.split()))} ?{letter}"
    elif task in ("sort", "gcd"):
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
        ("add_twice", "5 + 03", "[add_twice] 5 + 03"),
        ("sort_first", "3  1 2", "[sort_first] 3 1 2"),
        ("copy_then_sort", "3 01", "[copy_then_sort] 3 01"),
        ("sorting_extrap", "3 01", "[sorting_extrap] 1 3"),
        ("adding_ood", "5 + 03", "[adding_ood] 3 + 5"),
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


# ----------------------------------------------------------------------------------------------
# What the measures of memorization ask of a record
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "answer", "n", "first", "last"),
    [
        ("add", "7", 10, "0", "9"),
        ("add", "0", 10, "0", "9"),
        ("add", "42", 90, "10", "99"),
        ("add", "506", 900, "100", "999"),
        ("copy", "5 27", 900, "0 10", "9 99"),
        ("sort", "1 1 1", 1000, "0 0 0", "9 9 9"),
        ("rev", "999", 900, "100", "999"),
        ("rel", "B", 26, "A", "Z"),
        ("mod", "48", 90, "10", "99"),
        ("gcd", "1", 10, "0", "9"),
        ("recall", "3", 10, "0", "9"),
        ("add_reversed", "605", 900, "001", "999"),
        ("add_reversed", "001", 900, "001", "999"),
        ("add_padded", "012", 1000, "000", "999"),
    ],
)
def test_legal_answers_are_counted_enumerated_and_drawn_alike(task, answer, n, first, last):
    record = tasks.TASKS[task]
    legal = list(record.legal_answers(answer))
    assert record.n_legal(answer) == len(legal) == len(set(legal)) == n
    assert (legal[0], legal[-1]) == (first, last)
    assert answer in legal
    rng = random.Random(1)
    drawn = Counter(record.draw_legal(rng, answer) for _ in range(40 * n))
    assert set(drawn) == set(legal)  # a legal answer is missed with probability e^-40
    chi2 = sum((k - 40) ** 2 / 40 for k in (drawn[a] for a in legal))
    assert abs(chi2 - n) < 6 * (2 * n) ** 0.5


def test_legal_answers_of_long_numbers_are_counted_exactly_and_drawn_in_form():
    record, answer = tasks.TASKS["copy"], "9" * 30 + " 7"
    assert record.n_legal(answer) == 9 * 10**29 * 10
    drawn = [record.draw_legal(random.Random(seed), answer) for seed in range(50)]
    assert len(set(drawn)) == 50
    assert all(re.fullmatch("[1-9][0-9]{29} [0-9]", text) for text in drawn)
    assert next(record.legal_answers(answer)) == "1" + "0" * 29 + " 0"  # not all written out first


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        *(("add", answer) for answer in ("", "042", "1 ", "a", "-3", "1  2", "٣")),
        *(("rel", answer) for answer in ("", "AB", "b", "7", "É")),
        *(("add_reversed", answer) for answer in ("", "240", "a", " 1", "٣")),
        *(("add_padded", answer) for answer in ("", "1 2", "a", "-3", "٣")),
    ],
)
def test_an_answer_of_another_form_has_no_legal_answers(task, answer):
    record = tasks.TASKS[task]
    for work in (record.n_legal, record.legal_answers, lambda a: record.draw_legal(None, a)):
        with pytest.raises(ValueError, match="is not a"):
            list(work(answer))


@given(st.randoms(use_true_random=False), st.sampled_from(list(tasks.TASKS)))
@settings(max_examples=200)
def test_every_answer_is_among_the_legal_ones_of_its_form(rng, task):
    record = tasks.TASKS[task]
    answer = record.answer(record.draw(rng, record.training))
    other, n = record.draw_legal(rng, answer), record.n_legal(answer)
    assert record.n_legal(other) == n >= 10
    assert len(other) == len(answer)
    if n <= 2000:
        assert {answer, other} <= set(islice(record.legal_answers(answer), n))


@given(st.randoms(use_true_random=False), st.sampled_from(list(tasks.TASKS)), st.booleans())
@settings(max_examples=300)
def test_a_perturbed_prompt_is_another_example_under_the_same_rule(rng, task, long):
    record = tasks.TASKS[task]
    sizes = range(record.sizes[-1] // 2, record.sizes[-1] + 1) if long else record.training
    prompt = record.draw(rng, sizes)
    edited, answer = record.perturb(rng, prompt)
    assert answer == solve(task, edited)
    assert canonical_key(task, edited) != canonical_key(task, prompt)
    if record.unit == "hops":
        facts, new_facts = (text.split(" ? ")[0].split() for text in (prompt, edited))
        assert len(set(facts)) == len(set(new_facts)) == len(facts)
        assert record.size_of(edited) <= max(record.size_of(prompt), record.training[-1])
    elif task == "mod":
        (a, *same), (b, *others) = prompt.split(), edited.split()
        assert same == others
        assert a != b
        assert 0 <= int(b) < int(same[-1])
    else:
        assert len(edited) == len(prompt)
        assert sum(a != b for a, b in zip(prompt, edited, strict=True)) == 1
        if task in ("recall", "add_padded"):
            return  # whose digits may be zeros at the beginning
        numbers = re.findall(r"\d+", edited)
        assert numbers == [str(int(number)) for number in numbers]


def test_perturbing_rel_renames_people_and_asks_other_questions():
    prompt, kinds = "B>K F>B K>A ? up 2 A", set()
    for seed in range(200):
        edited, _ = tasks.TASKS["rel"].perturb(random.Random(seed), prompt)
        kinds.add(edited.split(" ? ")[0] == "B>K F>B K>A")
        if edited.split(" ? ")[0] != "B>K F>B K>A":  # one name, everywhere
            assert len(set(edited) - set(prompt)) == len(set(prompt) - set(edited)) == 1
    assert kinds == {True, False}


def test_perturbing_refuses_what_has_no_answer_or_no_edit():
    with pytest.raises(ValueError, match="leaves no other operand"):
        tasks.TASKS["mod"].perturb(random.Random(0), "0 + 0 mod 1")
    for seed in range(20):  # however large the modulus, and whatever zeros a number begins with
        edited, _ = tasks.TASKS["mod"].perturb(random.Random(seed), f"5 - 3 mod {10**400}")
        assert edited.endswith(f" - 3 mod {10**400}")
        assert set(tasks.TASKS["gcd"].perturb(random.Random(seed), "1 007")[0]) - {"0", " "}
    with pytest.raises(ValueError, match="not a sum"):
        tasks.TASKS["add"].perturb(random.Random(0), "a + b")
    with pytest.raises(ValueError, match="do not answer"):
        tasks.TASKS["rel"].perturb(random.Random(0), "A>B ? up 1 A")
    for prompt in ("A>B C>B ? up 1 B", "A>B A>C ? down 1 A", "B>K ? up 0 Z"):  # two, or nobody
        with pytest.raises(ValueError, match="do not answer"):
            tasks.answer_of_rel(prompt)
    with pytest.raises(ValueError, match="do not answer"):  # in a circle too; it is not walked
        tasks.TASKS["rel"].answer(f"A>A ? up {10**8} A")
    ring = " ".join(f"{a}>{a}" for a in ascii_uppercase)  # no fresh letter: only questions are left
    edited, answer = tasks.TASKS["rel"].perturb(random.Random(0), f"{ring} ? up 1 A")
    assert edited.startswith(ring)
    assert answer == edited[-1]


# ----------------------------------------------------------------------------------------------
# A sixth task is one record
# ----------------------------------------------------------------------------------------------

SIXTH = """
import json, random, sys
from data import tasks

def double(items):
    return [2 * item for item in items]

tasks.TASKS["twice"] = tasks.sequence_task(
    "twice", double, help="each item doubled", key=tasks.sequence_key, aliases=("doubling",),
    examples=("[twice] 5 27 | 10 54", "[twice] 0 314 | 0 628"), characters="!", standard=True,
)

import numpy as np
import plots, train_minigpt_4070 as trainer
from data import formats, generate

names = list(tasks.standard_tasks())
stages = trainer.plan_stages(formats.Labels(names, np.arange(6)), 12, 6)
files = generate.ood_files(7)
sets = generate.processed_sets(7)
print(json.dumps({
    "stages": [stage.tasks for stage in stages],
    "train": [raw for raw in sets["train_dedup"] if raw.startswith("[twice]")],
    "val": [raw for raw in sets["val"] if raw.startswith("[twice]")],
    "suites": {name: [raw for raw in generate.pickle.loads(content)["raw"] if "[twice]" in raw]
               for name, content in files.items() if name.endswith(".pkl")},
    "characters": sorted(generate.build_tokenizer(tasks.TASKS)["stoi"]),
    "levels": plots.LEVELS["items"], "range": plots.STANDARD_RANGE["twice"],
    "help": generate.build_parser().format_help(),
    "key": tasks.canonical_key("doubling_extrap", "05  27"),
    "tags": tasks.canonical_tags("copy_then_doubling_extrap"),
    "names": generate.PARTS["ood"][2],
}))
"""


def test_a_sixth_task_needs_one_record():
    home = Path(tasks.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SIXTH], cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["stages"] == [
        ["copy", "rev", "add", "sort", "rel", "twice"][:n] for n in range(1, 7)
    ]
    assert len(made["train"]) == 10_000
    assert len(made["val"]) == 500
    for name, owner in (("train", "train"), ("val", "val")):
        for raw in made[name]:
            tag, prompt, answer = halves(raw)
            assert answer == " ".join(str(2 * int(item)) for item in prompt.split())
            assert split_of(f"[{tag}] {prompt}") == owner
    counts = {name: len(raws) for name, raws in made["suites"].items() if raws}
    assert counts == {
        "ood_extrap_twice.pkl": 500,
        "ood_interpolation.pkl": 500,
        "ood_compositional.pkl": 600,  # before and after each of copy, rev and sort
        "ood_edge_cases.pkl": 200,
        "ood_robustness.pkl": 200,
        "ood_systematic.pkl": 2200,
    }
    assert all(raw in made["names"] for raw in ("ood_extrap_twice.pkl", "ood_extrap_rel.pkl"))
    assert {"t", "w", "!"} <= set(made["characters"])
    assert (made["levels"], made["range"]) == (["copy", "rev", "sort", "twice"], [3, 10])
    assert "twice each item doubled" in " ".join(made["help"].split())
    assert made["key"] == "[doubling_extrap] 5 27"
    assert made["tags"] == ["twice", "copy"]
