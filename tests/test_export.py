"""recipes/export.py: what is written, read back by safetensors and by transformers' own classes."""

import json
import sys
from dataclasses import asdict

import pytest
import torch

from data.formats import Tokenizer, build_examples
from ood_models import save_model, vocabulary
from recipes import export
from reference import reference_logits
from runtime.files import sha256_of
from train_minigpt_4070 import GPT, GPTConfig, generate, load_model

safetensors = pytest.importorskip("safetensors", reason="the package safetensors is not installed")
PROMPTS = ["[add] 12 + 30 | ", "[rev] 1 2 3 | ", "[sort] 31 4  15 | ", "[add] 7 + 8€ | "]
SHAPES = {
    "GPT2LMHeadModel": {"pos": "learned"},
    "GPTNeoXForCausalLM": {"pos": "rope"},
    "LlamaForCausalLM": {"pos": "rope", "swiglu": True},
}


def save(path, **arch):
    """A checkpoint whose every parameter, biases too, is drawn evenly."""
    train = path.parent / "train.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    train.write_text("[add] 1 + 2 | 3")
    save_model(path, train, max_len=48, n_heads=4, **arch)
    content, generator = torch.load(path, weights_only=True), torch.Generator().manual_seed(1)
    for p in content["model"].values():
        p.uniform_(-0.3, 0.3, generator=generator)
    content["model"]["w_tokens"] += 0.1  # a mean that a norm has to take away
    torch.save(content, path)
    return path


def run(path, kind, *more):
    return export.main(["--model", str(path), "--format", kind, *map(str, more)])


# ----------------------------------------------------------------------------------------------
# safetensors
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pos", ["rope", "learned", "nope", "alibi"])
def test_safetensors_has_all_that_makes_the_model(tmp_path, capsys, pos):
    path = save(tmp_path / "run/best_model.pth", pos=pos, swiglu=pos == "alibi")
    assert run(path.parent, "safetensors") == 0
    file = path.with_suffix(".safetensors")
    assert capsys.readouterr().out.startswith(f"{file}: ")
    with safetensors.safe_open(str(file), "pt") as content:
        metadata = {k: v for k, v in content.metadata().items() if k != "format"}
        facts = {name: json.loads(text) for name, text in metadata.items()}
        weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    original, tokenizer, _ = load_model(path, torch.device("cpu"))
    rebuilt = GPT(GPTConfig(**facts["arch"]), [0])
    assert facts["vocab"] == tokenizer.itos
    assert facts["arch"] == asdict(original.config)
    assert facts["trained_tags"] == ["add", "rev", "sort"]
    assert (facts["seed"], facts["epoch"], facts["step"], facts["trained_length"]) == (0, 3, 9, 20)
    assert facts["train_sha256"] == sha256_of(path.parent / "train.txt")
    assert weights["blocks.0.b_up"].dim() == 1
    assert weights["blocks.0.w_up"].shape == original.blocks[0].w_up.shape[1:]
    shapes = {name: p.shape for name, p in rebuilt.named_parameters()}
    rebuilt.load_state_dict({name: p.view(shapes[name]) for name, p in weights.items()})
    for name, p in original.named_parameters():
        assert torch.equal(p, rebuilt.get_parameter(name)), name


# ----------------------------------------------------------------------------------------------
# transformers
# ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(SHAPES))
def exported(request, tmp_path_factory):
    """(our model, our tokenizer, folder, name of the class in transformers)."""
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    folder = tmp_path_factory.mktemp("hf")
    path = save(folder / "best_model.pth", **SHAPES[request.param])
    assert run(path, "hf") == 0
    model, tokenizer, _ = load_model(path, torch.device("cpu"))
    return model, tokenizer, folder / "best_model_hf", request.param


def from_pretrained(folder):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def test_the_logits_are_those_of_the_naive_model(exported):
    model, tokenizer, folder, name = exported
    theirs, their_tokenizer = from_pretrained(folder)
    assert type(theirs).__name__ == name
    assert sum(p.numel() for p in theirs.parameters()) > 0
    for prompt in PROMPTS:
        ids = tokenizer.encode(f"{prompt}42 17").tolist()
        ours = reference_logits(model, 0, ids)
        assert ours.std() > 0.5  # so that 1e-4 says something
        logits = theirs(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(logits, ours, rtol=0, atol=1e-4)
        assert their_tokenizer(prompt)["input_ids"] == tokenizer.encode(prompt).tolist()


@torch.no_grad()
def test_generation_goes_the_same_way(exported):
    model, tokenizer, folder, _ = exported
    theirs, their_tokenizer = from_pretrained(folder)
    examples = build_examples([f"{prompt}12345678" for prompt in PROMPTS], tokenizer, "test")
    rows = torch.arange(len(PROMPTS))[None].numpy()
    n = 8 + 8  # generate goes on for RUN_ON characters past the answer
    ours = generate(model, examples, rows, tokenizer.eos, torch.device("cpu")).ids[0]
    alone = [their_tokenizer(prompt, return_tensors="pt") for prompt in PROMPTS]
    together = their_tokenizer(PROMPTS, return_tensors="pt", padding=True)
    continued = theirs.generate(**together, max_new_tokens=n)[:, together["input_ids"].shape[1] :]
    for i, (asked, expected) in enumerate(zip(alone, ours, strict=True)):
        said = theirs.generate(**asked, max_new_tokens=n)[0, asked["input_ids"].shape[1] :]
        for ids in (said.tolist(), continued[i].tolist()):
            ids = ids[: ids.index(tokenizer.eos)] if tokenizer.eos in ids else ids
            assert ids == expected


TEXTS = ["[add] 1 + 2 | 3", "  two  spaces ", "<eos><pad><unk>", "a\nb\tc\r", "é€\U0001f600 ", ""]


def test_the_tokenizer_makes_the_same_ids_of_any_text(exported):
    _, tokenizer, folder, _ = exported
    _, theirs = from_pretrained(folder)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == tokenizer.encode(text).tolist(), text
    known = "[add] 1 + 2 | 3"
    assert theirs.decode(theirs(known)["input_ids"]) == known
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id) == (2, 0, 1)
    assert len(theirs) == len(tokenizer)


def test_the_folder_says_where_the_model_is_from(exported):
    model, _, folder, name = exported
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [name]
    assert config["minigpt"]["arch"] == asdict(model.config)
    assert config["minigpt"]["train_sha256"] == sha256_of(folder.parent / "train.txt")
    assert (config["eos_token_id"], config["pad_token_id"], config["bos_token_id"]) == (2, 0, None)
    if name == "GPTNeoXForCausalLM":  # as transformers 4 reads it, else a quarter is rotated
        assert (config["rotary_pct"], config["rotary_emb_base"]) == (1.0, 10_000.0)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


@torch.no_grad()
def test_transformer_lens_loads_it(exported):
    bridges = pytest.importorskip(
        "transformer_lens.model_bridge", reason="the package transformer-lens is not installed"
    )
    model, tokenizer, folder, _ = exported
    bridge = bridges.TransformerBridge.boot_transformers(
        str(folder), device="cpu", dtype=torch.float32
    )
    ids = tokenizer.encode(PROMPTS[0]).tolist()
    assert bridge.to_tokens(PROMPTS[0], prepend_bos=False)[0].tolist() == ids
    logits, cache = bridge.run_with_cache(torch.tensor([ids]))
    torch.testing.assert_close(logits[0], reference_logits(model, 0, ids), rtol=0, atol=1e-4)
    assert "blocks.0.hook_resid_pre" in cache or "blocks.0.hook_in" in cache


def test_a_wrong_conversion_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    path = save(tmp_path / "best_model.pth", pos="rope")
    monkeypatch.setattr(export, "halves", lambda t, n_heads: t)  # channels left as ours are
    with pytest.raises(AssertionError, match="logits lie"):
        run(path, "hf")
    assert not (tmp_path / "best_model_hf").exists()


# ----------------------------------------------------------------------------------------------
# what cannot be done
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch", [{"pos": "nope"}, {"pos": "alibi"}, {"pos": "learned", "swiglu": True}]
)
def test_what_no_class_expresses_is_told(tmp_path, capsys, arch):
    path = save(tmp_path / "best_model.pth", **arch)
    assert run(path, "hf") == 2
    error = capsys.readouterr().err
    how = "with" if arch.get("swiglu") else "without"
    assert f"has --pos {arch['pos']} {how} --use_swiglu" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "best_model_hf").exists()


def test_mistakes_are_told(tmp_path, capsys, monkeypatch):
    path = save(tmp_path / "seeds/seed_0/best_model.pth")
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    assert run(path, "safetensors", "--out", out) == 2
    assert f"{out} exists; remove it, or give another --out" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    save(tmp_path / "seeds/seed_1/best_model.pth")
    assert run(tmp_path / "seeds", "safetensors") == 2
    assert "holds 2 seeds; export one, as --model" in capsys.readouterr().err
    for kind, package in (("safetensors", "safetensors"), ("hf", "transformers")):
        with monkeypatch.context() as patch:
            for name in [n for n in sys.modules if n.split(".")[0] == package]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, package, None)
            assert run(path, kind, "--out", tmp_path / "new") == 2
        error = capsys.readouterr().err
        assert error == f"error: export.py needs the package {package}; pip install {package}\n"
        assert not (tmp_path / "new").exists()


def test_the_vocabulary_may_have_tokens_of_several_characters(tmp_path):
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    tokenizer = Tokenizer([*vocabulary(), "add", "12"])
    theirs = export.hf_tokenizer(tokenizer)
    for text in ("[add] 12 + 30", "12add"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text).tolist()
