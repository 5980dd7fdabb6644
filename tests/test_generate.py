"""The generated files and the command line, checked by solvers, keys and counts of their own."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations, pairwise
from multiprocessing.pool import ThreadPool
from pathlib import Path
from string import ascii_uppercase

import pytest

from data import generate, tasks
from data.tasks import split_of
from runtime.files import write_atomically
from solvers import halves, insertion_sort, own_key, own_keys, solve

SCRIPT = Path(generate.__file__)
STANDARD = ("copy", "rev", "add", "sort", "rel")
TRAINING_SETS = [
    "data/processed/train_normal.pkl",
    "data/processed/train_dedup.pkl",
    "data/processed/train_duplicated.pkl",
    "data/add_only/train.pkl",
]
VALIDATION_SETS = ["data/processed/val.pkl", "data/add_only/val.pkl"]
SUITES = {
    "ood_extrap_copy": ("extrapolation", 500),
    "ood_extrap_rev": ("extrapolation", 500),
    "ood_extrap_add": ("extrapolation", 500),
    "ood_extrap_sort": ("extrapolation", 500),
    "ood_extrap_rel": ("extrapolation", 501),
    "ood_interpolation": ("interpolation", 2500),
    "ood_compositional": ("compositional", 800),
    "ood_novel_tasks": ("novel_tasks", 500),
    "ood_edge_cases": ("edge_cases", 800),
    "ood_robustness": ("robustness", 1000),
    "ood_systematic": ("systematic", 7710),
}
OOD = [f"ood_data_complete/{suite}.pkl" for suite in SUITES]
# SHA-256 of every file of seed 1337. A change here is a change of every published number.
KNOWN_SHA256 = {
    "data/add_only": {
        "dataset_stats.json": "2d7ac3a96b44aea1962ab984a08c3653fd65476b793770ec4222d0620a7d619d",
        "tokenizer.json": "89d87db557a6f5162aa92ebcb103d29a991f400ce8f03475ce35255e5f508561",
        "train.pkl": "61ed3dd4115d4323548cf26849f6c1306750ca63389977bf546bfde7a73663e6",
        "val.pkl": "a5c20fb60b4276e60ad236ec10c20fc6c72544f43a9c634bf393dcdf2d1bbe6e",
    },
    "data/memorizer": {
        "dataset_stats.json": "e6079dd4f42f26794832e48b0a6cb8b19a00bed019865e8bd778397baa7ea31a",
        "tokenizer.json": "89d87db557a6f5162aa92ebcb103d29a991f400ce8f03475ce35255e5f508561",
        "train.pkl": "bc7dece08937ccc1865f7ee12db4139efca0374d63a6629354cf9e2e780ff2fe",
        "val.pkl": "2f54ec8c47ee5fcb9105b77e4d9ab31abb2b72e402b8cfd023f98dd3349ffbda",
    },
    "data/memorization": {
        "dataset_stats.json": "83f6cd7ca79863919c34a0e69df6ad89c708fef91a732d22c66fc367edbffef2",
        "tokenizer.json": "89d87db557a6f5162aa92ebcb103d29a991f400ce8f03475ce35255e5f508561",
        "train.pkl": "3bc940b2bf79231d60f40571cc98557a3eee0cfc9a79f77f05e659d76dd491f5",
        "val.pkl": "f2f868cc8cc3f559a61f381ab3bd2f67a527d260ceeb19461f745ca1728e6d2a",
    },
    "data/processed": {
        "dataset_stats.json": "c173e93de5ca0283155528420eb0129b07e1c20e224956718a6c11a4fdb619fa",
        "tokenizer.json": "13d21b5a0dd38cfe566aef82825ef2eb28524db60a199b38a5418c4134d3143a",
        "train_dedup.pkl": "b4c4f7836f6af5d5fc70b571ac5012298ad2cb8ff4d8486e73e6bd4267b0b01e",
        "train_duplicated.pkl": "a195fee1fe5cf2d0716bafa70f13d3f3840ce9fd14c5a452d152ce70cb7e27e1",
        "train_normal.pkl": "5bed06b61327965c43c9c8dedf4cf090c3c7812d087b42f774463e9c70d22c17",
        "val.pkl": "84ddec80e0317ca95ff13245681e9582aeaf050f96c98e37f4b64603862bd95e",
    },
    "ood_data_complete": {
        "dataset_stats.json": "70d222f8d89bc09fd92ef7d946f0a0ce55cd1440536f376cc549dee07ec331c9",
        "ood_compositional.pkl": "196199df32b9832ac16e87da484bdc0bde6e175ea319983f3d68d320ae082136",
        "ood_edge_cases.pkl": "11469cbe2abb471ef194f0ce2ec75fc751788fc357968a15dcd0b9a18755d433",
        "ood_extrap_add.pkl": "7bf23d63b2857801235ff2ad3cc8c8aafd8c670e90e8aabe098df59680211eac",
        "ood_extrap_copy.pkl": "145caf640cbbee2634569ef30037cbc268fbb2a624184bc263dc803733d04491",
        "ood_extrap_rel.pkl": "7ed6bdc68ac20c40f1c5f53f33db881321f1c5e1cd942a96d169aef3381546eb",
        "ood_extrap_rev.pkl": "047f6bec333b635019785306b71a06b83e76981adc6d2ad3cc70317b1314bd8a",
        "ood_extrap_sort.pkl": "7a95a4540cca189a19c1863034d5dead87a8cde9212a85953611ea225cf0602a",
        "ood_interpolation.pkl": "5d328aa5958d15b546c5412d067311a1e92015c0e051db386457faaff567a301",
        "ood_novel_tasks.pkl": "fa93a56fc2ce5621cd68972810b134c20dc9dfa5c48931dfaf8455e8be06f3b8",
        "ood_robustness.pkl": "36ee8832e7ec6c00fc6e9fd15adb291e7e8cd5771e1d8dd61d899109ec94f64a",
        "ood_systematic.pkl": "6d2eb2e0ef01b367eeb4fba5e38b8ab8a627d7818251505311036cf2ae366d2f",
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The standard data, written once by the command line."""
    folder = tmp_path_factory.mktemp("standard")
    done = run_script("--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def files(root) -> dict:
    names = TRAINING_SETS + VALIDATION_SETS + OOD
    return {name: pickle.loads((root / name).read_bytes()) for name in names}


def run_script(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


# ---------------------------------------------------------------------------
# All files
# ---------------------------------------------------------------------------


def test_files_are_known_byte_for_byte(root):
    assert sum(path.is_file() for path in root.rglob("*")) == sum(map(len, KNOWN_SHA256.values()))
    for folder, known in KNOWN_SHA256.items():
        for name, sha256 in known.items():
            assert hashlib.sha256((root / folder / name).read_bytes()).hexdigest() == sha256, name


def test_a_second_run_in_this_process_finds_nothing_to_change(root):
    """Two processes with different hash seeds agree; only a damaged file is written again."""
    val = root / "data/processed/val.pkl"
    content = val.read_bytes()
    val.write_bytes(content[:-1])
    assert generate.make_standard_data(root, ["processed"]) == [val]
    assert val.read_bytes() == content


def test_every_answer_is_what_an_independent_solver_says(files):
    checked = 0
    for name, content in files.items():
        for raw in content["raw"]:
            tag, prompt, answer = halves(raw)
            assert solve(tag, prompt) == answer, f"{name}: {raw}"
            checked += 1
    assert checked == 3 * 50_000 + 2500 + 5500 + sum(n for _, n in SUITES.values())


def test_training_shares_no_example_with_validation_or_any_suite(files):
    trained = set().union(*(own_keys(files[name]["raw"]) for name in TRAINING_SETS))
    for name in VALIDATION_SETS + OOD:
        assert not trained & own_keys(files[name]["raw"]), name
    for name in OOD:
        for validation in VALIDATION_SETS:
            shared = own_keys(files[name]["raw"]) & own_keys(files[validation]["raw"])
            assert not shared, (name, validation)
    for raw in files["ood_data_complete/ood_compositional.pkl"]["raw"]:
        outer, prompt, _ = halves(raw)
        if prompt.startswith("["):
            inner, items = prompt[1:].split("] ")
            assert own_key(inner, items) not in trained
            assert own_key(outer, solve(inner, items)) not in trained


def test_every_key_is_owned_by_its_side_so_any_other_seed_is_disjoint_too(files):
    """What training owns is the same for every seed and size; the suites own all they may draw."""
    for name in TRAINING_SETS + VALIDATION_SETS:
        owners = Counter(split_of(tasks.key_of(raw)) for raw in set(files[name]["raw"]))
        assert set(owners) == {"val" if name in VALIDATION_SETS else "train"}
    for name in OOD:
        for raw, level in zip(files[name]["raw"], files[name]["level"], strict=True):
            if level == "one_item":
                assert len(halves(raw)[1].split()) == 1  # training has at least three
            elif "] [" not in raw:
                assert split_of(tasks.key_of(raw)) == "ood", raw


@pytest.mark.parametrize("task", STANDARD)
def test_another_seed_draws_other_rows_and_stays_disjoint(files, task):
    held_out = set().union(*(own_keys(files[name]["raw"]) for name in VALIDATION_SETS + OOD))
    sets = generate.training_rows(task, seed=7)
    assert not own_keys(sets["train_dedup"]) & held_out
    usual = own_keys(of_task(files[TRAINING_SETS[0]], task))
    assert len(own_keys(sets["train_normal"]) - usual) > 1000


def test_held_out_sets_repeat_no_example(files):
    for name in [*VALIDATION_SETS, "ood_data_complete/ood_interpolation.pkl"]:
        assert len(own_keys(files[name]["raw"])) == len(files[name]["raw"])
    for name in OOD:
        rows = Counter(zip(files[name]["raw"], files[name]["level"], strict=True))
        assert set(rows.values()) == {1}, name


# ---------------------------------------------------------------------------
# Training and validation sets
# ---------------------------------------------------------------------------


def of_task(content, task) -> list[str]:
    return [raw for raw in content["raw"] if raw.startswith(f"[{task}] ")]


def test_rows_and_task_mix(files):
    for name in TRAINING_SETS[:3]:
        assert Counter(files[name]["labels"]) == dict.fromkeys(STANDARD, 10_000)
    assert Counter(files["data/processed/val.pkl"]["labels"]) == dict.fromkeys(STANDARD, 500)
    assert Counter(files["data/add_only/train.pkl"]["labels"]) == {"add": 5000}
    assert Counter(files["data/add_only/val.pkl"]["labels"]) == {"add": 500}
    for name in TRAINING_SETS + VALIDATION_SETS:
        content = files[name]
        assert list(content) == ["encoded", "labels", "raw"]
        assert content["labels"] == [halves(raw)[0] for raw in content["raw"]]


def test_encoded_rows_are_the_characters_and_the_tokenizers_are_exact(root, files):
    for folder, trained in (("processed", STANDARD), ("add_only", ("add",))):
        tokenizer = json.loads((root / "data" / folder / "tokenizer.json").read_text())
        itos = {int(i): token for i, token in tokenizer["itos"].items()}
        assert [itos[i] for i in range(3)] == ["<pad>", "<unk>", "<eos>"]
        assert sorted(itos) == list(range(len(itos)))
        assert tokenizer["stoi"] == {token: i for i, token in itos.items()}
        names = [name for name in TRAINING_SETS + VALIDATION_SETS if f"/{folder}/" in name]
        used = set()
        for name in names:
            content = files[name]
            for raw, ids in zip(content["raw"], content["encoded"], strict=True):
                assert "".join([itos[i] for i in ids]) == raw
            used |= set("".join(content["raw"]))
        assert used == set(itos.values()) - {"<pad>", "<unk>", "<eos>"}, trained


def test_files_are_shuffled(files):
    for name in [*TRAINING_SETS[:3], "data/processed/val.pkl"]:
        labels = files[name]["labels"]
        tenth = len(labels) // 10
        for task in STANDARD:
            share = labels[:tenth].count(task) / tenth
            assert share == pytest.approx(0.2, abs=0.09), (name, task)
    raws = files["data/processed/train_duplicated.pkl"]["raw"]
    assert sum(a == b for a, b in pairwise(raws)) < 20  # copies do not lie beside each other


def test_dedup_repeats_nothing_and_holds_all_that_normal_holds(files):
    dedup, normal = (files[name]["raw"] for name in (TRAINING_SETS[1], TRAINING_SETS[0]))
    assert len(own_keys(dedup)) == len(dedup) == 50_000
    assert own_keys(normal) < own_keys(dedup)


def test_repeat_counts_are_exact_and_repeated_examples_are_a_random_choice(files):
    duplicated, dedup = (files[name] for name in (TRAINING_SETS[2], TRAINING_SETS[1]))
    assert set(duplicated["raw"]) < set(dedup["raw"])
    for task in STANDARD:
        counts = Counter(of_task(duplicated, task))
        assert Counter(counts.values()) == {1: 6616, 2: 340, 4: 170, 8: 85, 16: 42, 32: 21}
        assert len(own_keys(counts)) == len(counts)
        # Lengths of repeated examples are those of the set: a mean within 4 standard errors.
        lengths = [len(raw) for raw in of_task(dedup, task)]
        mean = sum(lengths) / len(lengths)
        deviation = (sum((n - mean) ** 2 for n in lengths) / len(lengths)) ** 0.5
        for at_least in (2, 8):
            chosen = [len(raw) for raw, count in counts.items() if count >= at_least]
            error = 4 * deviation / len(chosen) ** 0.5
            assert sum(chosen) / len(chosen) == pytest.approx(mean, abs=error), (task, at_least)
    rows = Counter(duplicated["raw"])
    for count in (2, 4, 8, 16, 32):
        total = sum(n for n in rows.values() if n == count)
        assert total == pytest.approx(3400, abs=40), count


def test_items_are_three_to_ten_of_60_30_10_percent_in_every_sequence_task(files):
    normal = files[TRAINING_SETS[0]]
    for task in ("copy", "rev", "sort"):
        items = [halves(raw)[1].split() for raw in of_task(normal, task)]
        sizes = Counter(map(len, items))
        assert sorted(sizes) == list(range(3, 11))
        assert all(n == pytest.approx(1250, abs=140) for n in sizes.values()), (task, sizes)
        digits = Counter(len(item) for prompt in items for item in prompt)
        total = sum(digits.values())
        for n_digits, share in ((1, 0.6), (2, 0.3), (3, 0.1)):
            assert digits[n_digits] / total == pytest.approx(share, abs=0.01), task
        assert sum(digits.values()) == sum(digits[n] for n in (1, 2, 3))
        first = Counter(item for prompt in items for item in prompt if len(item) == 1)
        assert len(first) == 10
        assert max(first.values()) / min(first.values()) < 1.12


def test_operands_have_one_to_three_digits_uniformly(files):
    pairs = [halves(raw)[1].split(" + ") for raw in of_task(files[TRAINING_SETS[0]], "add")]
    lengths = Counter((len(a), len(b)) for a, b in pairs)
    assert sorted(lengths) == [(a, b) for a in (1, 2, 3) for b in (1, 2, 3)]
    assert all(n == pytest.approx(10_000 / 9, abs=140) for n in lengths.values()), lengths
    assert all(str(int(number)) == number for pair in pairs for number in pair)


def test_the_set_to_memorize_has_one_wrong_answer_in_ten_of_each_repeat_count(root):
    train, val = (
        pickle.loads((root / f"data/memorization/{name}.pkl").read_bytes())["raw"]
        for name in ("train", "val")
    )
    repeats = Counter(train)
    assert Counter(repeats.values()) == {1: 1600, 2: 80, 4: 80, 8: 80, 16: 80, 32: 80}
    wrong = Counter()
    for raw, count in repeats.items():
        _, prompt, answer = halves(raw)
        right = solve("add", prompt)
        assert len(answer) == len(right)
        wrong[count] += answer != right
    assert wrong == {1: 160, 2: 8, 4: 8, 8: 8, 16: 8, 32: 8}
    assert len(own_keys(repeats)) == 2000
    assert all(halves(raw)[2] == solve("add", halves(raw)[1]) for raw in val)
    assert len(own_keys(val)) == len(val) == 300
    assert not own_keys(train) & own_keys(val)
    assert {split_of(tasks.key_of(raw)) for raw in train} == {"train"}


def test_add_only_covers_operands_0_to_99_in_distinct_rows(files):
    for name, n in (("data/add_only/train.pkl", 5000), ("data/add_only/val.pkl", 500)):
        raws = files[name]["raw"]
        operands = [int(number) for raw in raws for number in halves(raw)[1].split(" + ")]
        assert len(set(raws)) == n
        assert (min(operands), max(operands)) == (0, 99)
        assert sum(operands) / len(operands) == pytest.approx(49.5, abs=3)


def chain_of(prompt: str) -> tuple[list[str], list[tuple[str, str]], str, int, str]:
    """The chain that holds the person asked about, the other facts, and the question."""
    facts, question = prompt.split(" ? ")
    pairs = [tuple(fact.split(">")) for fact in facts.split()]
    direction, hops, person = question.split()
    below, above = dict(pairs), {child: parent for parent, child in pairs}
    assert len(below) == len(above) == len(pairs), "a person with two parents or two children"
    chain = [person]
    while chain[0] in above:
        chain.insert(0, above[chain[0]])
    while chain[-1] in below:
        chain.append(below[chain[-1]])
    others = [pair for pair in pairs if pair[0] not in chain]
    return chain, others, direction, int(hops), person


@pytest.mark.parametrize("name", [TRAINING_SETS[0], "data/processed/val.pkl"])
def test_rel_is_one_chain_and_others_who_cannot_matter(files, name):
    rows = [halves(raw) for raw in of_task(files[name], "rel")]
    n, seen, ends = len(rows), Counter(), 0
    for _, prompt, answer in rows:
        chain, others, direction, hops, person = chain_of(prompt)
        people = [p for pair in others for p in pair]
        assert len(set(people)) == len(people)
        assert set(chain + people) <= set(ascii_uppercase)
        assert not set(chain) & set(people)
        assert max(4, hops + 2) <= len(chain) <= 8
        assert answer in chain
        assert answer != person
        ends += answer in (chain[0], chain[-1])
        seen.update([("hops", hops), ("others", len(others)), direction, (hops, len(chain))])
    for hops in (1, 2, 3):
        assert seen["hops", hops] / n == pytest.approx(1 / 3, abs=0.09)
        lengths = range(max(4, hops + 2), 9)
        for length in lengths:
            share = seen[hops, length] / seen["hops", hops]
            assert share == pytest.approx(1 / len(lengths), abs=0.09)
    for others in (0, 1, 2):
        assert seen["others", others] / n == pytest.approx(1 / 3, abs=0.09)
    assert seen["up"] / n == pytest.approx(0.5, abs=0.09)
    assert ends / n < 0.4  # answering an end of the chain is no way through


# ---------------------------------------------------------------------------
# OOD suites
# ---------------------------------------------------------------------------


def suite(files, name: str) -> list[tuple[str, str, str, object]]:
    content = files[f"ood_data_complete/ood_{name}.pkl"]
    pairs = zip(content["raw"], content["level"], strict=True)
    return [(*halves(raw), level) for raw, level in pairs]


def test_suites_have_their_shape(files):
    for name, (category, n) in SUITES.items():
        content = files[f"ood_data_complete/{name}.pkl"]
        assert content["category"] == category
        assert content["count"] == n == len(content["raw"]) == len(content["level"])
        assert content["labels"] == [halves(raw)[0] for raw in content["raw"]]
        assert content["encoded"] == []
        assert n >= 500


def test_suites_use_trained_tags_and_characters_except_novel_tasks(root, files):
    tokenizer = json.loads((root / "data/processed/tokenizer.json").read_text())
    for name in SUITES:
        raws = files[f"ood_data_complete/{name}.pkl"]["raw"]
        tags = {tag for raw in raws for tag in re.findall(r"\[(.*?)\]", raw)}
        if name == "ood_novel_tasks":
            assert tags == {"sub", "mul", "max", "count", "dedup"}
        else:
            assert tags <= set(STANDARD)
            assert set("".join(raws)) <= set(tokenizer["stoi"])


def test_extrapolation_is_longer_than_training_in_equal_parts(files):
    for task in ("copy", "rev", "sort"):
        rows = suite(files, f"extrap_{task}")
        assert all(len(prompt.split()) == level for _, prompt, _, level in rows)
        assert Counter(level for *_, level in rows) == dict.fromkeys(range(11, 21), 50)
    adds = suite(files, "extrap_add")
    assert all({len(n) for n in prompt.split(" + ")} == {level} for _, prompt, _, level in adds)
    assert Counter(level for *_, level in adds) == {4: 250, 5: 250}
    rels = suite(files, "extrap_rel")
    for _, prompt, _, level in rels:
        chain, _, _, hops, _ = chain_of(prompt)
        assert hops == level
        assert len(chain) == 8
    assert Counter(level for *_, level in rels) == {4: 167, 5: 167, 6: 167}


def test_systematic_turns_one_knob(files):
    rows = suite(files, "systematic")
    counts = Counter((tag, level) for tag, _, _, level in rows)
    expected = {(task, n): 100 for task in ("copy", "rev", "sort") for n in range(3, 25)}
    expected |= {(task, n): 100 for task in ("add", "rel") for n in range(1, 7)}
    assert counts == expected | {("add", 1): 10}  # every sum of one digit that is held out
    for tag, prompt, _, level in rows:
        if tag == "add":
            assert {len(n) for n in prompt.split(" + ")} == {level}
        elif tag == "rel":
            chain, _, _, hops, _ = chain_of(prompt)
            assert (len(chain), hops) == (8, level)
        else:
            assert len(prompt.split()) == level


def test_one_digit_sums_are_all_that_the_suites_own(files):
    owned = {
        f"{a} + {b}"
        for a in range(10)
        for b in range(10)
        if split_of(f"[add] {min(a, b)} + {max(a, b)}") == "ood"
    }
    rows = suite(files, "systematic")
    assert {prompt for tag, prompt, _, level in rows if (tag, level) == ("add", 1)} == owned


def test_interpolation_is_drawn_as_validation_is(files):
    interpolation = files["ood_data_complete/ood_interpolation.pkl"]
    val = files["data/processed/val.pkl"]
    assert Counter(interpolation["labels"]) == Counter(val["labels"])
    for task in STANDARD:
        lengths = [[len(raw) for raw in of_task(c, task)] for c in (interpolation, val)]
        assert sum(lengths[0]) == pytest.approx(sum(lengths[1]), rel=0.05)
    for tag, prompt, _, level in suite(files, "interpolation"):
        words = prompt.split()
        if tag == "add":
            assert level == max(len(words[0]), len(words[2])) <= 3
        else:
            assert level == (int(words[-2]) if tag == "rel" else len(words)) <= 10


def test_compositional_pairs_and_three_addends(files):
    rows = suite(files, "compositional")
    tasks = ("copy", "rev", "sort")
    pairs = ["rev rev"] + [
        f"{outer} {inner}" for outer in tasks for inner in tasks if outer != inner
    ]
    assert Counter(level for *_, level in rows) == dict.fromkeys([*pairs, "three_addends"], 100)
    for tag, prompt, _, level in rows:
        if level == "three_addends":
            assert re.fullmatch(r"\d{1,3} \+ \d{1,3} \+ \d{1,3}", prompt)
        else:
            outer, inner = level.split()
            assert tag == outer
            assert prompt.startswith(f"[{inner}] ")
            assert 3 <= len(prompt.split()) - 1 <= 10


def test_edge_cases_are_what_they_are_called(files):
    rows = suite(files, "edge_cases")
    kinds = {
        "one_item": lambda x: len(x) == 1,
        "all_equal": lambda x: len(set(x)) == 1 and len(x) >= 3,
        "sorted": lambda x: x == insertion_sort(x) and len(x) >= 3,
        "reverse_sorted": lambda x: x[::-1] == insertion_sort(x) and len(x) >= 3,
        "plus_zero": lambda x: 0 in x and len(x) == 2,
        "largest": lambda x: len(x) == 2 and min(x) >= 990 and max(x) <= 999,
    }
    for _, prompt, _, level in rows:
        assert kinds[level]([int(n) for n in re.findall(r"\d+", prompt)]), (level, prompt)
    counts = Counter((tag, level) for tag, _, _, level in rows)
    expected = {("add", "plus_zero"): 100, ("add", "largest"): 100}
    for kind in ("one_item", "all_equal", "sorted", "reverse_sorted"):
        expected |= {(task, kind): 50 for task in ("copy", "rev", "sort")}
    assert counts == expected
    assert "999 + 999" in {prompt for _, prompt, _, _ in rows}


def test_robustness_changes_the_writing_and_not_the_answer(files):
    rows = suite(files, "robustness")
    for _, prompt, answer, level in rows:
        plain = re.sub(r"\b0+(?=\d)", "", " ".join(prompt.split()))
        assert (level == "extra_spaces") == ("  " in prompt)
        assert (level == "leading_zeros") == bool(re.search(r"\b0\d", prompt))
        assert (level == "no_spaces") == (" " not in prompt)
        assert answer == " ".join(str(int(w)) if w.isdigit() else w for w in answer.split())
        assert prompt != plain or level == "no_spaces"
    expected = {(task, "extra_spaces"): 100 for task in STANDARD}
    expected |= {(task, "leading_zeros"): 100 for task in ("copy", "rev", "add", "sort")}
    expected[("add", "no_spaces")] = 100
    assert Counter((tag, level) for tag, _, _, level in rows) == expected


# ---------------------------------------------------------------------------
# Statistics
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["data/processed", "data/add_only", "ood_data_complete"])
def test_statistics_are_true(root, files, folder):
    stats = json.loads((root / folder / "dataset_stats.json").read_text())
    contents = {
        Path(name).name: files[name]
        for name in files
        if str(Path(name).parent.as_posix()) == folder
    }
    assert stats["seed"] == 1337
    assert set(stats["files"]) == set(contents)
    for name, content in contents.items():
        about, raws = stats["files"][name], content["raw"]
        assert about["sha256"] == hashlib.sha256((root / folder / name).read_bytes()).hexdigest()
        check_description(about, raws)
        assert set(about["by_tag"]) == set(content["labels"])
        levels = content.get("level") or [None] * len(raws)
        for tag, part in about["by_tag"].items():
            mine = [i for i in range(len(raws)) if halves(raws[i])[0] == tag]
            check_description(part, [raws[i] for i in mine])
            assert sum(part["rows_by_level"].values()) == len(mine)
            if "level" in content:
                assert part["rows_by_level"] == Counter(str(levels[i]) for i in mine)
            digits = Counter(
                str(len(n)) for i in mine for n in re.findall(r"\d+", halves(raws[i])[1])
            )
            assert part["prompt_numbers_by_digits"] == digits
    assert [pair["files"] for pair in stats["overlap"]] == [
        list(pair) for pair in combinations(stats["files"], 2)
    ]
    keyed = {name: [own_key(*halves(raw)[:2]) for raw in c["raw"]] for name, c in contents.items()}
    for pair in stats["overlap"]:
        a, b = (keyed[name] for name in pair["files"])
        shared = set(a) & set(b)
        assert pair["shared_keys"] == len(shared)
        rows = [sum(key in shared for key in keys) for keys in (a, b)]
        assert pair["rows_with_shared_keys"] == rows


def check_description(about: dict, raws: list[str]) -> None:
    repeats = Counter(own_key(tag, prompt) for tag, prompt, _ in map(halves, raws))
    assert about["rows"] == len(raws)
    assert about["examples"] == len(own_keys(raws)) == len(repeats)
    assert about["duplication_rate"] == round((len(raws) - len(repeats)) / len(raws), 4)
    assert about["examples_by_repeat_count"] == {
        str(n): k for n, k in Counter(repeats.values()).items()
    }
    for column, which in (("prompt", 1), ("answer", 2)):
        lengths = sorted(len(halves(raw)[which]) for raw in raws)
        mean = round(sum(lengths) / len(lengths), 2)
        expected = {"min": lengths[0], "mean": mean, "max": lengths[-1]}
        assert about["characters"][column] == expected
    assert about["characters"]["row"]["max"] == max(map(len, raws))


def test_statistics_report_the_shift_to_longer_sums_that_distinct_rows_bring(root, files):
    stats = json.loads((root / "data/processed/dataset_stats.json").read_text())
    for name in TRAINING_SETS[:3]:
        by_level = stats["files"][Path(name).name]["by_tag"]["add"]["rows_by_level"]
        prompts = [halves(raw)[1] for raw in of_task(files[name], "add")]
        digits = Counter(str(max(map(len, prompt.split(" + ")))) for prompt in prompts)
        assert by_level == digits
    dedup = stats["files"]["train_dedup.pkl"]["by_tag"]["add"]["rows_by_level"]
    assert dedup["1"] == 44  # every one-digit pair that training owns, once


# ---------------------------------------------------------------------------
# Writing files and the command line
# ---------------------------------------------------------------------------


def test_missing_files_are_made_and_existing_ones_left_alone(tmp_path):
    folder = tmp_path / "data/add_only"
    written = generate.make_missing(folder / "train.pkl", root=tmp_path)
    names = ["dataset_stats.json", "tokenizer.json", "train.pkl", "val.pkl"]
    assert sorted(path.name for path in written) == names
    assert sorted(path.name for path in folder.iterdir()) == names  # no temporary files
    assert generate.make_missing(folder / "train.pkl", root=tmp_path) == []
    (folder / "tokenizer.json").write_text("mine")
    (folder / "val.pkl").unlink()
    assert generate.make_missing(folder / "val.pkl", root=tmp_path) == [folder / "val.pkl"]
    assert (folder / "tokenizer.json").read_text() == "mine"
    assert generate.make_missing(folder / "other.pkl", root=tmp_path) == []
    assert generate.make_missing(tmp_path / "elsewhere/train.pkl", root=tmp_path) == []


def test_the_folder_of_suites_is_made_only_where_it_holds_none(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        generate, "make_standard_data", lambda root, parts, **_: made.append(parts) or made
    )
    folder = tmp_path / "ood_data_complete"
    generate.make_missing(folder, root=tmp_path)
    assert made == [["ood"]]
    folder.mkdir()
    (folder / "ood_extrap_rev.pkl").write_bytes(b"mine")
    assert generate.make_missing(folder, root=tmp_path) == []
    assert generate.make_missing(folder / "ood_systematic.pkl", root=tmp_path) == [["ood"]] * 2


def test_the_names_a_command_may_ask_for_are_the_files_that_are_made(root):
    for folder, _, names in generate.PARTS.values():
        assert {path.name for path in (root / folder).iterdir()} == {*names, "dataset_stats.json"}


def test_several_writers_at_once_leave_whole_files(tmp_path):
    def make(_):
        return generate.make_standard_data(tmp_path, ["add_only"])

    with ThreadPool(4) as pool:
        pool.map(make, range(4))
    for path in (tmp_path / "data/add_only").iterdir():
        known = KNOWN_SHA256["data/add_only"][path.name]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == known


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_pickles_do_not_depend_on_which_strings_are_one_object():
    text = "".join(["a", "b"])
    same, other = {"raw": [text, text]}, {"raw": ["ab", "".join(["a", "b"])]}
    assert generate.pickle_bytes(same) == generate.pickle_bytes(other)
    assert pickle.loads(generate.pickle_bytes(same)) == other


def test_command_line_says_what_it_wrote_and_then_that_nothing_changed(tmp_path):
    first = run_script("--only", "add_only", "--out", tmp_path)
    again = run_script("--only", "add_only", "--out", tmp_path)
    other = run_script("--only", "add_only", "--out", tmp_path, "--seed", 7)
    # Some pairs stand there in both orders: 3,373 examples in 5,000 rows of the standard seed.
    runs = ((first, "written", "3,373"), (again, "unchanged", "3,373"), (other, "written", None))
    for done, state, examples in runs:
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines() if ".pkl" in line]
        examples = examples or lines[0][2]
        assert [(*line[:3], line[-1]) for line in lines] == [
            ("train.pkl", "5,000", examples, state),
            ("val.pkl", "500", "500", state),
        ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--only", "nothing"], "invalid choice: 'nothing'"),
        (["--seed", "x"], "invalid int value: 'x'"),
        (["--seed", "-1"], "-1 is not between 0 and 4,294,967,295"),
        (["--seed", "4294967296"], "4294967296 is not between 0 and 4,294,967,295"),
        (["--out", SCRIPT, "--only", "add_only"], "is a file, or lies in one"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, expected):
    done = run_script(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_statistics_count_rows_and_examples():
    rows = ["[add] 3 + 5 | 8", "[add] 5 + 3 | 8", "[add] 3 + 5 | 8", "[rev] 1 | 1", "[rev] 01 | 10"]
    about = generate.row_statistics([(raw, None) for raw in rows])
    assert (about["rows"], about["examples"], about["duplication_rate"]) == (5, 3, 0.4)
    assert about["examples_by_repeat_count"] == {"1": 2, "3": 1}


def test_a_home_folder_in_out_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert generate.main(["--only", "add_only", "--out", "~/made"]) == 0
    assert (tmp_path / "made/data/add_only/train.pkl").is_file()


def test_importing_does_nothing(tmp_path):
    code = (
        f"import sys, random; sys.path.insert(0, {str(SCRIPT.parents[1])!r})\n"
        "sys.argv = ['x', '--y']; before = random.getstate()\n"
        "import data.generate; assert random.getstate() == before"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


SUM = r"\[add\] (\d+) \+ (\d+) \| (\d+)"


def test_the_memorizer_repeats_a_third_of_its_sums_ten_times(root):
    train, val = (
        pickle.loads((root / "data" / "memorizer" / f"{name}.pkl").read_bytes())["raw"]
        for name in ("train", "val")
    )
    sums = {raw: tuple(map(int, re.fullmatch(SUM, raw).groups())) for raw in (*train, *val)}
    keys = Counter(tuple(sorted(sums[raw][:2])) for raw in train)
    assert sorted(Counter(keys.values()).items()) == [(1, 200), (10, 100)]
    unseen = {tuple(sorted(sums[raw][:2])) for raw in val} - keys.keys()
    assert len(unseen) == len(val) == 500
    assert all(a + b == total and max(a, b) < 100 for a, b, total in sums.values())
