"""README.md and docs/: links resolve, commands parse, flags exist, and the README stays short."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from data.sources import default_out_dir
from runtime.errors import EXIT_CODES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "studies").glob("*.md"))]
SCRIPTS = [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
SCRIPTS += [ROOT / "data/generate.py", *sorted((ROOT / "recipes").glob("*.py"))]
SCRIPTS += [path for path in sorted((ROOT / "studies").glob("*.py")) if path.stem != "__init__"]
FOREIGN_FLAGS = {  # of pip, ruff, npm, torchrun and sbatch
    *("--index-url", "--check", "--no-save"),
    *("--standalone", "--nproc_per_node", "--max-restarts", "--nnodes", "--rdzv-endpoint"),
    *("--array", "--gres", "--time", "--requeue", "--signal", "--open-mode"),
}


def name_of(page):
    return str(page.relative_to(ROOT))


def text_of(page):
    return page.read_text(encoding="utf-8")


def parsers():
    """name of a script -> its parser"""
    modules = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SCRIPTS}
    loaded = {path: importlib.import_module(module) for path, module in modules.items()}
    return {
        name_of(path): module.build_parser()
        for path, module in loaded.items()
        if hasattr(module, "build_parser")
    }


def commands(text):
    """(script, words after it) of each Python command in the fenced blocks of a page."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if language not in ("", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;", line):
                words = shlex.split(part, comments=True)
                at = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
                if at is not None and "pytest" not in words:
                    yield words[at], words[at + 1 :]


def test_the_readme_has_at_most_1300_words():
    assert len(text_of(README).split()) <= 1300


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    local = [link.partition("#")[0] for link in links if not re.match(r"https?:", link)]
    assert [link for link in local if link and not (page.parent / link).exists()] == []


def test_every_page_of_docs_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[^)\s]+\.md)\)", text_of(README)))
    assert linked == {name_of(page) for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=name_of)
def test_named_flags_exist(page):
    """Not in LOG.md, which tells of flags that were deleted."""
    known = {flag for parser in parsers().values() for flag in parser._option_string_actions}
    named = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text_of(page)))
    assert sorted(named - known - FOREIGN_FLAGS) == []


def test_the_table_of_flags_has_the_defaults_of_the_trainer():
    actions = parsers()["train_minigpt_4070.py"]._option_string_actions
    text = text_of(ROOT / "docs/training.md")
    rows = re.findall(r"^\| `(--\w+)`(?:, `--\w+`)* \| (.+?) \|", text, re.M)
    assert len(rows) > 10
    for flag, said in rows:
        default = actions[flag].default
        if default is None or isinstance(default, bool):
            assert said in (("on",) if default else ("off", "–")), flag
        else:
            assert type(default)(said) == default, flag


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page):
    found = parsers()
    for script, words in commands(text_of(page)):
        assert script in found, f"{name_of(page)} runs {script}"
        taken = words[: words.index("--")] if "--" in words else words
        # A variable of the shell stands for a number: that is what $d, $s and $set can all be.
        found[script].parse_args([re.sub(r"\$\{?\w+\}?", "64", word) for word in taken])


def test_the_table_of_exit_codes_is_that_of_the_scripts():
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text_of(ROOT / "docs/robustness.md"), re.M)
    assert {int(code): meaning.replace("`", "") for code, meaning in rows} == EXIT_CODES


def test_the_readme_has_the_users_two_commands_and_the_second_is_the_default():
    parser = parsers()["train_minigpt_4070.py"]
    runs = [words for script, words in commands(text_of(README)) if script.startswith("train")]
    by_folder = {
        words[words.index("--out_dir") + 1]: words for words in runs if "--out_dir" in words
    }
    first = parser.parse_args(by_folder["runs/fix_run_01"])
    assert (first.epochs, first.lr, first.warmup_steps, first.d_model) == (50, 5e-5, 1000, 256)
    assert (first.batch_size, first.accumulation_steps, first.task_curriculum) == (8, 4, True)
    second, bare = (vars(parser.parse_args(w)) for w in (by_folder["runs/step1_add_only"], []))
    # What is left out is found: the tokenizer beside the data, and the folder by the name of both.
    found = {"tokenizer": "data/add_only/tokenizer.json", "out_dir": default_out_dir(bare["data"])}
    assert second == {**bare, **found}


LAYERS = ["runtime", "data", "metrics", "comparison", "plots", "memorization", "reporting"]
LAYERS += ["report", "train_minigpt_4070", "evaluation", "evaluate_ood", "evaluate_memorization"]
TORCHLESS = ("data", "metrics", "comparison", "plots", "memorization", "reporting", "report")


def test_imports_run_one_way():
    """As the table in CONTRIBUTING.md has it."""
    above = set()
    for name in LAYERS:
        above.add(name)
        files = [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").exists() else []
        for path in [*files, *(ROOT / name).glob("*.py")]:
            nodes = list(ast.walk(ast.parse(text_of(path))))
            found = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
            found |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
            ours = {module.split(".")[0] for module in found} & set(LAYERS)
            assert ours <= above, f"{name_of(path)} imports {sorted(ours - above)}"
            if name in TORCHLESS:
                assert "torch" not in found, name_of(path)


def test_the_layout_in_contributing_names_every_module():
    table = text_of(ROOT / "CONTRIBUTING.md").split("## How the code is laid out")[1]
    table = table.split("## ")[0]
    packages = {path.parent for path in ROOT.glob("*/__init__.py")} - {ROOT / "tests"}
    assert ROOT / "data" in packages
    assert not [path.name for path in packages if f"`{path.name}/`" not in table]
    assert not [path.name for path in ROOT.glob("*.py") if f"`{path.name}`" not in table]
    for folder in ("runtime", "data", "comparison", "memorization", "evaluation"):
        modules = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
        assert not [name for name in sorted(modules) if f"`{name}`" not in table], folder


def test_the_citation_names_version_and_license():
    project = text_of(ROOT / "pyproject.toml")
    citation = text_of(ROOT / "CITATION.cff")
    version = re.search(r'^version = "(.+)"$', project, re.M)[1]
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == version
    assert re.search(r"^cff-version: (.+)$", citation, re.M)[1] == "1.2.0"
    assert re.search(r"^license: (.+)$", citation, re.M)[1] == "MIT"
    assert text_of(ROOT / "LICENSE").startswith("MIT License\n")
