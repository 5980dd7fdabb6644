"""report.py: what stands on the page, that it is the same each time, small, and free of others."""

import base64
import doctest
import hashlib
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from matplotlib import rc_context

import report
from comparison import groups
from comparison.page import in_points
from comparison.table import compare_groups
from metrics import is_there, newcombe_interval, verdict, wrong_spans
from plots import Point, own_style, pool
from reporting import examples, gather, identity, svg, tables
from reporting import verdict as verdicts
from reporting.examples import as_json, choose, encode
from reports import HOSTILE, SCRIPT, panel, plain, prediction
from run_folders import curriculum_rows, write_rows
from runtime.files import ROOT

PARTS = ["verdict", "identity", "memory", "learning", "ood", "examples", "limits", "downloads"]


class Outline(HTMLParser):
    """Ids of sections in order, texts of the body, tags and attributes."""

    def __init__(self, page):
        super().__init__()
        self.sections, self.tags, self.attributes, self.texts, self.within = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.sections.append(dict(attrs)["id"])
        if tag not in ("meta", "link", "br", "img", "input"):
            self.within.append(tag)

    def handle_endtag(self, tag):
        while self.within and self.within.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.within):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page_of(*folders, out):
    assert report.main([*map(str, folders), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("reports")
    return {"panel": panel(root / "panel"), "plain": plain(root / "plain"), "root": root}


@pytest.fixture(scope="module")
def pages(folders):
    return {
        name: page_of(folders[name], out=folders["root"] / f"{name}.html")
        for name in ("panel", "plain")
    }


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


# ------------------------------------------------------------------------------------------------
# the file
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [examples, gather, identity, verdicts])
def test_doctests(module):
    failed, attempted = doctest.testmod(module)
    assert (failed, attempted > 0) == (0, True)


def test_the_same_records_give_the_same_bytes_in_another_process(folders, pages, tmp_path):
    out = tmp_path / "again.html"
    command = [sys.executable, ROOT / "report.py", folders["plain"], "--out", out]
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONHASHSEED": "7"})
    assert out.read_text(encoding="utf-8") == pages["plain"]


def test_nothing_of_it_imports_torch(folders, tmp_path):
    code = (
        "import sys, report\n"
        f"code = report.main([{str(folders['panel'])!r}, '--out', {str(tmp_path / 'x.html')!r}])\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_page_holds_what_it_needs_and_asks_for_nothing(pages):
    for page in pages.values():
        outline = Outline(page)
        policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)[1]
        style, script = (
            re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S)[1] for tag in ("style", "script")
        )
        for kind, text in (("style", style), ("script", script)):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in html.unescape(policy)
        assert html.unescape(policy).startswith("default-src 'none';")
        assert "unsafe" not in policy
        found = [(name, value) for _, name, value in outline.attributes]
        assert [value for name, value in found if name in ("src", "style", "onclick")] == []
        links = {value for name, value in found if name in ("href", "xlink:href")}
        assert {link for link in links if not link.startswith("#")} == set()
        assert "url(http" not in page
        assert "@import" not in style
        assert len(script.encode()) <= 10_000
        assert len(page.encode()) < 1_000_000


def test_32_seeds_of_50_epochs_with_long_texts_stay_under_a_megabyte(tmp_path):
    numbers = " ".join(map(str, range(100, 120)))
    lines = [
        prediction(i, f"{i} {numbers}", numbers, "1 2 3 4 5 6", suite=f"ood_{i % 11}")
        for i in range(6000)
    ]
    folder = plain(tmp_path / "many", seeds=32, lines=lines)
    for seed in range(32):
        write_rows(folder / f"seed_{seed}", curriculum_rows(50, seed))
    page = page_of(folder, out=tmp_path / "many.html")
    assert len(page.encode()) < 1_000_000
    shown = len(data_of(page)["examples"]["wrong"])
    assert 1500 < shown < 5000  # as many as fit
    assert f"{shown:,} of 6,000 examples" in page


def test_the_example_in_docs_is_small_and_a_page_of_today():
    page = (ROOT / "docs/example_report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 1_000_000
    assert (ROOT / "docs/example_report.png").stat().st_size < 150_000
    script = (ROOT / "reporting/page.js").read_text(encoding="utf-8")
    assert f"<script>{script}</script>" in page  # else make it again


def test_ids_are_unique(pages):
    for page in pages.values():
        ids = [value for _, name, value in Outline(page).attributes if name == "id"]
        assert len(ids) == len(set(ids))


def test_all_that_links_point_to_is_there(pages):
    for page in pages.values():
        attributes = Outline(page).attributes
        ids = {value for _, name, value in attributes if name == "id"}
        wanted = {value[1:] for _, name, value in attributes if name.endswith("href")}
        wanted |= set(re.findall(r"url\(#([^)]+)\)", page))
        described = [v for _, name, v in attributes if name.startswith("aria-") and "by" in name]
        wanted |= {word for value in described for word in value.split()}
        assert wanted - ids == set()


# ------------------------------------------------------------------------------------------------
# what it says
# ------------------------------------------------------------------------------------------------


def test_parts_stand_in_order_where_their_records_are(pages):
    assert Outline(pages["plain"]).sections == PARTS
    without_ood = [part for part in PARTS if part != "ood"]
    assert Outline(pages["panel"]).sections == without_ood


def test_a_run_without_predictions_has_no_examples(folders, tmp_path):
    folder = plain(tmp_path / "bare")
    (folder / "ood_results/predictions.jsonl").unlink()
    (folder / "ood_results/ood_results.json").unlink()
    page = page_of(folder, out=tmp_path / "bare.html")
    assert Outline(page).sections == [p for p in PARTS if p not in ("ood", "examples")]
    assert data_of(page)["examples"] is None


def test_identity(pages):
    text = Outline(pages["plain"]).text
    for said in (
        "python train_minigpt_4070.py --data 'my data.txt'",
        "c0ffeec0ffee",
        "mine/train.txt",
        f"SHA-256 {'ab' * 32}",
        "2026-11-27 08:00 UTC",
        "2 min 20 s",
        "Python 3.11.7, torch 2.13.0",
    ):
        assert said in text
    assert "<title>plain – memory or rule?</title>" in pages["plain"]
    assert "<h1>plain</h1>" in pages["plain"]


def test_each_figure_has_a_title_a_description_and_its_numbers(pages):
    for page in pages.values():
        figures = re.findall(r'<figure id="(.*?)">(.*?)</figure>', page, re.S)
        assert len(figures) >= 5
        for name, figure in figures:
            described = f'aria-labelledby="{name}-title" aria-describedby="{name}-about"'
            assert f'role="img" {described}' in figure
            assert re.search(rf'<h3 class="head" id="{name}-title">\w', figure)
            assert re.search(rf'<figcaption id="{name}-about">\w', figure)
            details = re.search(r"<details>.*</details>", figure, re.S)[0]
            assert details.count("<tr>") > 1
            assert "<image" not in figure  # no raster


def test_figures_of_a_panel_and_of_a_plain_run(pages):
    def names(page):
        return [name.removeprefix("r0-") for name in re.findall(r'<figure id="(.*?)"', page)]

    assert names(pages["panel"])[:3] == ["budget", "map", "repeats"]
    assert {"roc", "bits", "learning"} <= set(names(pages["panel"]))
    assert names(pages["plain"]) == [
        *("counts", "effects", "learning", "tasks"),
        *("forest", "levels", "failures"),
    ]


def test_texts_of_the_data_are_texts(pages):
    page = pages["plain"]
    assert SCRIPT not in page
    assert page.count("<script") == 2
    assert "img" not in Outline(page).tags
    columns = {column["key"]: column for column in data_of(page)["examples"]["columns"]}
    assert f"[rev] {HOSTILE[0][0]}" in columns["prompt"]["values"]
    assert HOSTILE[0][1] in columns["answer"]["values"]
    assert "</b>" not in re.search(r'id="data">(.*?)</script>', page, re.S)[1]


def test_seeds_have_curves_that_can_be_hidden(tmp_path):
    page = page_of(plain(tmp_path / "seeds", seeds=3), out=tmp_path / "x.html")
    assert re.findall(r'aria-pressed="true" data-seed="(\d)"', page) == ["0", "1", "2"]
    curves = re.findall(r'class="seed" data-seed="(\d)"', page)
    assert sorted(curves) == ["0", "0", "1", "1", "2", "2"]  # unseen and train


def test_values_on_hover_are_those_of_the_run(pages):
    points = data_of(pages["plain"])["hover"]["r0-forest"]
    forest = {text for _, _, text in points}
    suite = json.loads(json.dumps(data_of(pages["plain"])["raw"]["runs"]["plain"]["ood"]))
    rate = suite["headline"]["interpolation"]["exact_match"]
    assert f"exact match: interpolation at {100 * rate:.1f} %" in forest


def test_validations_within_an_epoch_are_rows_of_their_own(tmp_path):
    folder = plain(tmp_path / "steps")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"epoch": 1 + i // 4, "train_exact_match_by_repeat_count": {"1": 0.5, "2": 0.6}}
    write_rows(folder, rows)
    (one,) = gather.gather([folder])
    for table in (tables.learning_table(one.run), tables.counts_over_epochs_table(one.run)):
        assert table.names[0] == "step"
        assert len(table.rows) == len(rows)
    assert len(tables.compared_learning_table([one.run]).rows) == len(rows)


def test_several_runs_stand_in_one_page(folders, tmp_path):
    page = page_of(folders["panel"], folders["plain"], out=tmp_path / "both.html")
    assert "<title>panel · plain – memory or rule?</title>" in page
    assert {"r0-budget", "r1-forest"} <= set(re.findall(r'<figure id="(.*?)"', page))
    columns = {column["key"]: column for column in data_of(page)["examples"]["columns"]}
    assert columns["run"]["names"] == ["panel", "plain"]


def test_several_runs_are_compared_and_say_what_could_have_been_seen(tmp_path):
    runs = [plain(tmp_path / "short", seeds=3), plain(tmp_path / "long", seeds=3, epochs=40)]
    page = page_of(*runs, out=tmp_path / "two.html")
    sections = Outline(page).sections
    assert sections == [*PARTS[:-2], "compared", *PARTS[-2:]]
    found = compare_groups(*groups.gather([one.run for one in gather.gather(runs)]))
    said = data_of(page)["raw"]["comparison"]
    assert said["runs"] == ["short", "long"]
    assert [d["row"] for d in said["differences"]] == [d.row for d in found.differences]
    text = html.unescape(Outline(page).text)
    assert len(found.differences) > 3
    for d in found.differences:
        assert in_points(d) in text
    least = min((d for d in found.differences if d.detectable), key=lambda d: d.detectable)
    assert f"{100 * least.detectable:.1f} points" in text
    figures = [name for name in re.findall(r'<figure id="(.*?)"', page) if name[:4] == "all-"]
    assert figures == ["all-learning", "all-tasks", "all-ood"]


# ------------------------------------------------------------------------------------------------
# verdicts
# ------------------------------------------------------------------------------------------------


def budget(rule, memory, bits=10.0):
    row = {"group": "add", "n": 50, "bits": bits, "unexplained": bits - rule[0] - memory[0]}
    for name, values in (("rule", rule), ("memory", memory)):
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return row


@pytest.mark.parametrize(
    ("rule", "memory", "replicas", "said"),
    [
        ((9, 8.5, 9.5), (0.1, -0.1, 0.3), 32, "Learned the rule"),
        ((3, 2.5, 3.5), (0.1, -0.1, 0.3), 32, "Learned a part of the rule"),
        ((0.1, -0.1, 0.3), (3, 2, 4), 32, "Memorized a part"),
        ((3, 2.5, 3.5), (0.4, -1, 1.8), 32, "Learned a part of the rule; memory undecided"),
        ((-3, -4, -2), (12, 11, 13), 32, "Memorized"),
        ((2, 1, 3), (7, 6, 8), 32, "Both, mostly memory"),
        ((7, 6, 8), (2, 1, 3), 32, "Both, mostly the rule"),
        ((4, 3, 5), (4.5, 3.5, 5.5), 32, "Both; which is larger is open"),
        ((0.1, 0, 0.2), (0.1, 0, 0.2), 32, "Neither yet"),
        ((0.4, -1, 1.8), (7, 6, 8), 32, "Memorized; a rule undecided"),
        ((9, 8, 10), (0.4, -1, 1.8), 32, "Learned the rule; memory undecided"),
        ((0.4, -1, 1.8), (0.4, -1, 1.8), 32, "Undecided"),
        ((9, 8.5, 9.5), (0.1, -0.1, 0.3), 15, "Undecided"),
    ],
)
def test_the_verdict_of_a_budget(rule, memory, replicas, said):
    found = verdicts.of_budget(budget(rule, memory), replicas)
    assert found.headline == said
    assert ("decide" in found.advice or "tell" in found.advice) is (
        "ndecided" in said or "Neither" in said
    )


def test_the_sentence_of_a_budget_has_intervals_and_n():
    found = verdicts.of_budget(budget((-3, -4, -2), (12, 11, 13)), 32)
    assert found.sentence == (
        "Of 10.0 bits of an answer, the rule gives −3.0 [−4.0, −2.0], memory 12.0 [11.0, 13.0]; "
        "1.0 stay unexplained. n = 50 examples, 32 replicas."
    )
    assert found.parts == []  # a part below 0 is no part of a bar
    found = verdicts.of_budget(budget((2, 1, 3), (7, 6, 8)), 32)
    assert found.parts == [("rule", 0.2), ("memory", 0.7), ("unexplained", 0.1)]
    found = verdicts.of_budget(budget((2, 1, 3), (0.01, -0.03, 0.06)), 32)
    assert "memory 0.0 [0.0, 0.1];" in found.sentence  # no −0.0


def test_a_run_that_went_on_says_for_how_long_it_was_begun():
    config = {"epochs_before": [2, 3], "arguments": {"epochs": 5}}
    assert identity.extended_words(config) == "begun for 2 epochs, went on to 3, 5"
    assert identity.extended_words({"arguments": {"epochs": 5}}) == ""


def test_rows_held_out_of_the_training_file_are_told():
    assert identity.held_out_words({"held_out_rows": 6}) == " (6 of its rows, held out of training)"
    assert identity.held_out_words({}) == ""


def test_one_layer_is_no_plural():
    words = identity.model_words({"n_layers": 1, "d_model": 16, "n_heads": 2, "pos": "rope"})
    assert words == "1 layer, width 16, 2 heads, rope, GELU, dropout 0"


def test_a_group_on_one_side_has_no_verdict():
    found = verdicts.of_budget({"group": "add", "n": 0, "bits": None}, 32)
    assert (found.headline, found.parts) == ("Undecided", [])


@pytest.mark.parametrize(
    ("unseen", "once", "often", "said"),
    [
        (0.99, 0.99, 0.99, "Learned the rule"),
        (0.01, 0.99, 0.99, "Memorized"),
        (0.60, 0.90, 0.90, "Both, mostly the rule"),
        (0.01, 0.01, 0.01, "Neither yet"),
        (0.70, 0.70, 0.95, "Learned the rule, and memorized what repeats"),
        (0.30, 0.30, 0.30, "Learned a part of the rule"),
        (0.01, 0.40, 0.40, "Memorized a part"),
    ],
)
def test_the_verdict_of_a_run(unseen, once, often, said):
    n = 1000

    def row(rate, **more):
        return {"group": "add", "n": n, "exact_match": rate, **more}

    held = row(unseen, chance=0.001, lookup={"nearest": 0.01, "suffix": 0.0, "majority": 0.0})
    seeds = [{"held": held, "counts": {1: row(once), 32: row(often)}}]
    found = verdicts.of_task("add", seeds, unseen=True)
    assert found.headline == said
    assert f"{100 * unseen:.1f}\u00a0% [" in found.sentence
    assert "of 1,000 unseen examples are right, where lookup (nearest) would give 1.0" in (
        found.sentence
    )
    assert ("those that stand 32 times +25.0 more" in found.sentence) is (often > once)


@pytest.mark.parametrize(("n", "said"), [(50, "Undecided"), (1000, "Learned a part of the rule")])
def test_lookup_was_measured_on_examples_too(n, said):
    """10 % right where lookup gives 4: of 50 examples that is 5 against 2."""

    def row(rate, **more):
        return {"group": "rel", "n": n, "exact_match": rate, **more}

    lookup = {"n": n, "nearest": 0.04, "suffix": 0.02, "majority": 0.04}
    seeds = [{"held": row(0.1, chance=0.038, lookup=lookup), "counts": {1: row(0.1)}}]
    low, high = newcombe_interval(n // 10, n, n // 25, n)
    held = pool([seeds[0]["held"]])
    assert verdicts.above_base(held, verdicts.lookup_of([seeds[0]["held"]])[0]) == pytest.approx(
        (0.06, low, high)
    )
    assert verdicts.of_task("rel", seeds, unseen=True).headline.startswith(said)


def test_nothing_unseen_decides_nothing():
    row = {"group": "add", "n": 100, "exact_match": 1.0}
    found = verdicts.of_task("add", [{"held": row, "counts": {1: row}}], unseen=False)
    assert found.headline == "Undecided"
    assert "every validation example stands in the training set" in found.sentence
    assert "--subset" in found.advice


def test_is_there_and_verdict_by_hand():
    assert is_there(0.10, 0.01, 0.19, 0.05) is True
    assert is_there(0.04, 0.01, 0.07, 0.05) is None  # above 0, but perhaps not worth naming
    assert is_there(0.02, 0.01, 0.03, 0.05) is False
    assert is_there(0.10, -0.01, 0.21, 0.05) is None
    assert is_there(0.10, float("nan"), 0.2, 0.05) is None
    assert [verdict(True, False), verdict(False, True), verdict(True, True)] == [
        *("rule", "memory", "both")
    ]
    assert [verdict(False, False), verdict(None, True)] == ["neither", "undecided"]


# ------------------------------------------------------------------------------------------------
# examples
# ------------------------------------------------------------------------------------------------


def rows_of(source, n, run="a"):
    return [
        {
            "run": run,
            "source": source,
            "task": "add",
            "prompt": f"[add] {source} {i}",
            "answer": "1",
        }
        for i in range(n)
    ]


def test_few_examples_are_all_shown():
    rows = rows_of("s", 30)
    assert choose(rows) == (rows, "All 30 examples.")


def test_of_many_each_source_gives_as_many_by_hash():
    rows = rows_of("large", 900) + rows_of("middle", 300) + rows_of("small", 20)
    chosen = choose(rows, most=220)
    counts = {s: sum(r["source"] == s for r in chosen.rows) for s in ("large", "middle", "small")}
    assert counts == {"large": 100, "middle": 100, "small": 20}
    assert "220 of 1,220 examples" in chosen.rule

    def digest(row):
        return hashlib.sha256(f"{row['prompt']} | {row['answer']}".encode()).hexdigest()

    kept = {row["prompt"] for row in chosen.rows if row["source"] == "large"}
    by_hash = sorted(rows_of("large", 900), key=digest)[:100]
    assert kept == {row["prompt"] for row in by_hash}
    assert choose(rows[::-1], most=220).rows == chosen.rows[::-1]  # whatever their order


def test_examples_keep_within_bytes():
    chosen = choose(rows_of("s", 400), most_bytes=4000)
    assert 20 < len(chosen.rows) < 400
    assert len(as_json(encode(chosen.rows))) <= 4000


def test_wrong_spans_by_hand():
    assert wrong_spans("506", "506") == []
    assert wrong_spans("5 6", "5 7") == [(2, 3)]
    assert wrong_spans("56", "506") == [(1, 1)]
    assert wrong_spans("5066", "506") in ([(3, 4)], [(2, 3)])
    assert wrong_spans("", "1") == [(0, 0)]


def test_predictions_of_seeds_are_one_row(tmp_path):
    lines = [
        prediction(0, "1 + 1", "2", said, seed=seed)
        for seed, said in ((0, "2"), (1, "2"), (2, "3"), (3, "22"))
    ]
    folder = plain(tmp_path / "seeds", lines=lines)
    (row,) = examples.of_predictions(gather.gather([folder])[0])
    assert (row["prediction"], row["right"], row["outcome"]) == ("2", 0.5, "right")
    assert row["log_prob"] == pytest.approx(-0.5 / 0.693147, rel=1e-4)


def test_seeds_with_other_numbers_of_predictions_have_no_share_that_is_right(tmp_path):
    lines = [prediction(0, "1 + 1", "2", "2", seed=0), prediction(1, "1 + 2", "3", "3", seed=0)]
    lines.append(prediction(0, "1 + 1", "2", "2", seed=1))
    folder = plain(tmp_path / "seeds", lines=lines)
    rows = examples.of_predictions(gather.gather([folder])[0])
    assert [(row["prediction"], row["right"]) for row in rows] == [("2", None), ("3", None)]


def test_rows_of_a_panel_have_rates_bits_and_a_neighbour(folders):
    rows = examples.of_panel(gather.gather([folders["panel"]])[0])
    assert len(rows) == 200
    bits = [row["memory"] for row in rows]
    assert bits == sorted(bits, reverse=True)
    known = {(row["exact_in"], row["exact_out"]) for row in rows}
    assert known == {(1.0, 1.0), (1.0, 0.0)}  # by rule, and by lookup
    assert all(row["neighbour"] and row["distance"] >= 1 for row in rows)


# ------------------------------------------------------------------------------------------------
# figures
# ------------------------------------------------------------------------------------------------


def test_what_is_written_on_a_figure_stays_to_the_last_digit():
    from matplotlib.figure import Figure

    texts = ["-12.98", "0.1234", 'id="x" url(#y) style="fill: #ff0000"', "<script>1.2345</script>"]
    figure = Figure()
    ax = figure.subplots()
    for i, text in enumerate(texts):
        ax.text(0.1, 0.2 * i, text)
    with own_style(), rc_context(svg.RC):
        markup = svg.draw(figure, "f", svg.Sheet()).markup
    written = [html.unescape(t) for t in re.findall(r"<text[^>]*>(.*?)</text>", markup, re.S)]
    assert set(texts) <= set(written)
    assert "<script" not in markup
    assert 'style="' not in re.sub(r"<text[^>]*>.*?</text>", "", markup, flags=re.S)


def test_numbers_of_a_panel_are_on_its_figure(folders, pages):
    path = folders["panel"] / "memorization/memorization_results.json"
    figure = re.search(r'<figure id="r0-budget">.*?</svg>', pages["panel"], re.S)[0]
    written = set(re.findall(r"<text[^>]*>(.*?)</text>", figure, re.S))
    for row in json.loads(path.read_text())["budget"]:
        assert {f"{row[part]:.2f}" for part in ("rule", "memory", "unexplained")} <= written


# ------------------------------------------------------------------------------------------------
# colours
# ------------------------------------------------------------------------------------------------


def luminance(colour):
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_on_a_dark_page():
    paper = "#15171a"
    for colour in ("#000000", "#333333", "#595959", *svg.COLOURS):
        assert contrast(svg.dark_colour("--cx", colour.lower()), paper) > 4.5, colour
    assert contrast(svg.dark_colour("--cx", "#ffffff"), paper) < 1.2
    amounts = [svg.dark_colour("--ix", c) for c in ("#56b4e9", "#0072b2", "#000000")]
    assert contrast(amounts[0], paper) < contrast(amounts[1], paper) < contrast(amounts[2], paper)


# ------------------------------------------------------------------------------------------------
# mistakes
# ------------------------------------------------------------------------------------------------


def said_of(capsys, *argv):
    assert report.main([*map(str, argv)]) == 2
    return capsys.readouterr().err


def test_several_runs_need_a_place(folders, capsys):
    said = said_of(capsys, folders["panel"], folders["plain"])
    assert said == "error: several runs need a place for their page; add --out report.html\n"


def test_a_folder_is_no_page(folders, capsys, tmp_path):
    said = said_of(capsys, folders["plain"], "--out", tmp_path)
    assert said.startswith(f"error: --out {tmp_path} is a folder; name a file")


def test_one_run_has_its_page_inside(tmp_path, capsys):
    folder = plain(tmp_path / "own")
    assert report.main([str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_a_page_overwrites_no_record_of_a_run(tmp_path, capsys):
    folder = plain(tmp_path / "own")
    before = (folder / "config.json").read_bytes()
    assert report.main([str(folder), "--out", str(folder / "config.json")]) == 2
    assert "ends in .html" in capsys.readouterr().err
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("memorization/memorization_results.json", "{", "is not readable as JSON"),
        ("memorization/memorization_results.json", '{"format": 1}', "lacks budget"),
        ("memorization/memorization_results.json", '{"format": 9}', "format 1"),
        ("ood_results/predictions.jsonl", "[1]\n", "line 1, is no prediction"),
        ("ood_results/predictions.jsonl", "{\n", "line 1, is no prediction"),
    ],
)
def test_a_damaged_record_is_told_in_one_sentence(tmp_path, capsys, file, content, said):
    folder = plain(tmp_path / "run")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(content)
    out = said_of(capsys, folder)
    assert said in out
    assert str(folder / file) in out
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "path", "value", "said"),
    [
        ("config.json", ("derived", "n_params"), "many", "n_params should be a whole number"),
        ("config.json", ("versions", "torch"), 2, "torch should be a text"),
        ("config.json", ("command",), "python x", "command should be a list"),
        ("config.json", ("data", "audit"), {"val_seen": -1}, "val_seen should be a whole number"),
        (
            "memorization.json",
            ("last", "by_task", 0, "chance"),
            2,
            "chance should be a number from",
        ),
        ("memorization.json", ("last", "by_task", 0, "lookup"), [], "lookup should be an object"),
        ("ood_results/ood_results.json", ("suites", "ood_robustness", "n"), "x", "n should be a"),
    ],
)
def test_a_record_of_another_shape_is_told(tmp_path, capsys, file, path, value, said):
    folder = plain(tmp_path / "run")
    record = place = json.loads((folder / file).read_text())
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / file).write_text(json.dumps(record))
    out = said_of(capsys, folder)
    assert said in out
    assert str(folder / file) in out


def test_a_damaged_table_of_examples_is_told(folders, capsys, tmp_path):
    path = folders["panel"] / "memorization/per_example.csv"
    text = path.read_text()
    try:
        path.write_text(text.replace("repeat_count", "repeats", 1))
        assert "lacks the column repeat_count" in said_of(
            capsys, folders["panel"], "--out", tmp_path / "x.html"
        )
        header, first, *rest = text.split("\n")
        cells = first.split(",")
        cells[header.split(",").index("exact_in")] = "many"
        path.write_text("\n".join([header, ",".join(cells), *rest]))
        said = said_of(capsys, folders["panel"], "--out", tmp_path / "x.html")
        assert "row 2, column exact_in should be a number, not 'many'" in said
    finally:
        path.write_text(text)


def test_an_interval_is_said_with_its_sign():
    assert verdicts.span(Point(0.1, -0.012, 0.2), signed=True) == "[-1.2, +20.0]"
