"""Take a trained model elsewhere: as safetensors, or as a folder that transformers loads.

    python recipes/export.py --model runs/x/best_model.pth --format safetensors
    python recipes/export.py --model runs/x/best_model.pth --format hf --out exported/x

safetensors has the weights by our names, without the replica axis, and what they mean as metadata.
hf is a Hugging Face folder with tokenizer, in a class that transformers has, so that it needs none
of our code: GPT-2 for --pos learned, GPT-NeoX for rope, Llama for rope with --use_swiglu.

    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained("exported/x")
    model = AutoModelForCausalLM.from_pretrained("exported/x")
    asked = tokenizer("[add] 12 + 30 | ", return_tensors="pt")
    print(tokenizer.decode(model.generate(**asked, max_new_tokens=8)[0]))

Needs `pip install safetensors`, or for hf `pip install transformers`.
"""

import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from runtime.cli import Parser, answer_early, path, run_main

FORMATS = ("safetensors", "hf")

# ----------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------


def build_parser() -> Parser:
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--model", type=path, required=True, help="checkpoint, or the run folder of one seed")
    flag("--format", choices=FORMATS, required=True, help="what to write")
    flag(
        "--out",
        type=path,
        help="file of safetensors or folder of hf (default: beside the checkpoint, its name with "
        ".safetensors or _hf)",
    )
    return parser


if __name__ == "__main__":
    answer_early(build_parser().parse_args)


# ----------------------------------------------------------------------------------------------
# Imports that take seconds
# ----------------------------------------------------------------------------------------------

import torch

from data.formats import EOS, PAD, UNK, Tokenizer
from evaluation.models import find_checkpoints
from runtime.errors import UserError
from runtime.files import check_writable, write_atomically
from train_minigpt_4070 import GPT, Batch, GPTConfig, load_model

NORM_EPS = 1e-5  # of F.layer_norm, with which the model was trained
ROPE_THETA = 10_000.0


def optional(package: str):
    """A package that nothing but an export needs; UserError where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{Path(__file__).name} needs the package {package.partition('.')[0]}; pip install "
            f"{package.partition('.')[0]}"
        ) from None


# ----------------------------------------------------------------------------------------------
# Our weights in the classes of transformers
# ----------------------------------------------------------------------------------------------
#
# Our norms have neither gain nor bias, which is a gain of 1 and a bias of 0 there. Our matrices are
# [in, out], as GPT-2's are; torch.nn.Linear's are [out, in].


def one_replica(model: GPT) -> dict[str, torch.Tensor]:
    """name -> tensor without the replica axis: matrices [in, out], biases [out]."""
    weights = {}
    for name, p in model.named_parameters():
        bias = name.rpartition(".")[2].startswith("b_")
        weights[name] = (p[0, 0] if bias else p[0]).detach().cpu().clone()
    return weights


def norm(name: str, C: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.ones(C), f"{name}.bias": torch.zeros(C)}


def halves(t: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Output channels of q or k in the order that transformers rotates them.

    We rotate channels 2k and 2k + 1 of a head together, transformers k and k + D / 2. Attention is
    a sum over channels, so it is the same in any order that q and k share.
    """
    pairs = t.unflatten(-1, (n_heads, -1, 2))  # [..., H, D / 2, 2]
    return pairs.transpose(-1, -2).flatten(-3)


def gpt2(config: GPTConfig, ours: dict) -> tuple[dict, dict]:
    """(fields of GPT2Config, its weights)."""
    C, weights = config.d_model, {"transformer.wte.weight": ours["w_tokens"]}
    weights["transformer.wpe.weight"] = ours["w_positions"]
    for i in range(config.n_layers):
        own, layer = f"blocks.{i}", f"transformer.h.{i}"
        names = {"qkv": "attn.c_attn", "out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
        for name, there in names.items():
            weights[f"{layer}.{there}.weight"] = ours[f"{own}.w_{name}"]
            weights[f"{layer}.{there}.bias"] = ours[f"{own}.b_{name}"]
        weights |= norm(f"{layer}.ln_1", C) | norm(f"{layer}.ln_2", C)
    weights |= norm("transformer.ln_f", C)
    fields = {
        "n_positions": config.max_len,
        "n_embd": C,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "activation_function": "gelu",  # the exact one, as ours
        "layer_norm_epsilon": NORM_EPS,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": 0.0,
    }
    return fields, weights


def linear(name: str, w: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": w.mT.contiguous(), f"{name}.bias": b}


def sizes(config: GPTConfig) -> dict[str, int]:
    """What GPTNeoXConfig and LlamaConfig call alike."""
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff,
        "max_position_embeddings": config.max_len,
    }


def gpt_neox(config: GPTConfig, ours: dict) -> tuple[dict, dict]:
    """(fields of GPTNeoXConfig, its weights)."""
    C, H, weights = config.d_model, config.n_heads, {"gpt_neox.embed_in.weight": ours["w_tokens"]}

    def by_head(t):
        """q, k and v one after the other, each over all heads -> head by head, each with all."""
        q, k, v = t.split(C, -1)
        parts = (halves(q, H), halves(k, H), v)
        return torch.cat([part.unflatten(-1, (H, -1)) for part in parts], -1).flatten(-2)

    for i in range(config.n_layers):
        own, layer = f"blocks.{i}", f"gpt_neox.layers.{i}"
        qkv = (by_head(ours[f"{own}.w_qkv"]), by_head(ours[f"{own}.b_qkv"]))
        weights |= linear(f"{layer}.attention.query_key_value", *qkv)
        names = {"out": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"}
        for name, there in names.items():
            weights |= linear(f"{layer}.{there}", ours[f"{own}.w_{name}"], ours[f"{own}.b_{name}"])
        weights |= norm(f"{layer}.input_layernorm", C)
        weights |= norm(f"{layer}.post_attention_layernorm", C)
    weights |= norm("gpt_neox.final_layer_norm", C)
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA, "partial_rotary_factor": 1.0}
    fields = {
        **sizes(config),
        "hidden_act": "gelu",  # the exact one, as ours
        "layer_norm_eps": NORM_EPS,
        "use_parallel_residual": False,
        "hidden_dropout": config.dropout,
        "rope_parameters": rope,
    }
    return fields, weights


def llama(config: GPTConfig, ours: dict) -> tuple[dict, dict]:
    """(fields of LlamaConfig, its weights).

    Llama divides by the root mean square where we take the standard deviation: the same for a
    vector whose mean is 0. So all that is written to the residual stream is centred. Our norms drop
    that mean before anything reads it, so every logit stays.
    """
    C, H = config.d_model, config.n_heads

    def centred(t):
        return t - t.mean(-1, keepdim=True)

    weights = {"model.embed_tokens.weight": centred(ours["w_tokens"])}
    for i in range(config.n_layers):
        own, layer, parts = f"blocks.{i}", f"model.layers.{i}", {}
        for kind in ("w", "b"):
            q, k, v = ours[f"{own}.{kind}_qkv"].split(C, -1)
            gate, up = ours[f"{own}.{kind}_up"].chunk(2, -1)
            out, down = (centred(ours[f"{own}.{kind}_{name}"]) for name in ("out", "down"))
            parts[kind] = {
                "self_attn.q_proj": halves(q, H),
                "self_attn.k_proj": halves(k, H),
                "self_attn.v_proj": v,
                "self_attn.o_proj": out,
                "mlp.gate_proj": gate,
                "mlp.up_proj": up,
                "mlp.down_proj": down,
            }
        for name, w in parts["w"].items():
            weights |= linear(f"{layer}.{name}", w, parts["b"][name])
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{name}.weight"] = torch.ones(C)
    weights["model.norm.weight"] = torch.ones(C)
    fields = {
        **sizes(config),
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPS,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
    }
    return fields, weights


CLASSES = {  # (--pos, --use_swiglu) -> classes of configuration and model, and their conversion
    ("learned", False): ("GPT2Config", "GPT2LMHeadModel", gpt2),
    ("rope", False): ("GPTNeoXConfig", "GPTNeoXForCausalLM", gpt_neox),
    ("rope", True): ("LlamaConfig", "LlamaForCausalLM", llama),
}


def expressed(config: GPTConfig) -> tuple:
    """The entry of CLASSES that computes what this model does; UserError where none does."""
    try:
        return CLASSES[config.pos, config.swiglu]
    except KeyError:
        mlp = "with" if config.swiglu else "without"
        raise UserError(
            f"none of GPT-2, GPT-NeoX and Llama in transformers has --pos {config.pos} {mlp} "
            "--use_swiglu, so --format hf cannot express this model; --format safetensors takes any"
        ) from None


def hf_model(model: GPT, tokenizer: Tokenizer, facts: dict):
    """The model of transformers that computes what `model` does, of one replica."""
    config_class, model_class, convert = expressed(model.config)
    transformers = optional("transformers")
    fields, weights = convert(model.config, one_replica(model))
    config = getattr(transformers, config_class)(
        vocab_size=len(tokenizer),
        **fields,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
        minigpt=facts,
    )
    theirs = getattr(transformers, model_class)(config).float().eval()
    missing, unknown = theirs.load_state_dict(weights, strict=False)
    tied = {name for name in missing if name.startswith(("lm_head", "embed_out"))}
    assert (set(missing), list(unknown)) == (tied, []), (missing, unknown)
    return theirs


@torch.inference_mode()
def all_logits(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    """Our logits at every position of one text: ids int64 [T] -> [T, V]."""
    at = torch.arange(len(ids))
    batch = Batch(
        ids[None], at, groups=[(1, len(ids))], answer_at=at[None], targets=None, slot=None
    )
    return model(batch)[0]


def check_logits(model: GPT, theirs) -> None:
    """Raise AssertionError unless the two give the same logits on a text of random tokens."""
    generator = torch.Generator().manual_seed(0)
    T, V = min(model.config.max_len, 256), model.config.vocab_size
    ids = torch.randint(V, (T,), generator=generator)
    ours = all_logits(model, ids)
    with torch.inference_mode():
        error = (theirs(ids[None]).logits[0] - ours).abs().max()
    assert error <= 1e-4 * ours.abs().max().clamp(min=1), f"logits lie {float(error)} apart"


def hf_tokenizer(tokenizer: Tokenizer):
    """A tokenizer of transformers that makes the same ids of every text.

    Also of one that holds `<eos>`: our tokenizer reads characters alone.
    """
    tokenizers, transformers = optional("tokenizers"), optional("transformers")
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(tokenizer.stoi, unk_token=UNK))
    each = tokenizers.Regex(r"[\s\S]")
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Split(each, behavior="isolated")
    fast.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token=UNK,
        pad_token=PAD,
        eos_token=EOS,
        split_special_tokens=True,
        padding_side="left",  # for prompts of several lengths that are to be continued
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


# ----------------------------------------------------------------------------------------------
# Export
# ----------------------------------------------------------------------------------------------


def facts_of(checkpoint: dict) -> dict:
    """What travels with the weights: where they are from, and what they were trained on."""
    names = ("arch", "trained_tags", "trained_length", "seed", "epoch", "step")
    known = {name: checkpoint[name] for name in names if name in checkpoint}
    return {**known, "train_sha256": checkpoint["data"]["train"]["sha256"]}


def write_safetensors(file: Path, model: GPT, tokenizer: Tokenizer, facts: dict) -> None:
    """One file: weights by our names, without the replica axis, and metadata of JSON texts."""
    save = optional("safetensors.torch").save
    metadata = {name: json.dumps(value) for name, value in facts.items()}
    metadata |= {"format": "pt", "vocab": json.dumps(tokenizer.itos)}
    weights = {name: p.contiguous() for name, p in one_replica(model).items()}
    write_atomically(file, save(weights, metadata))


def write_hf(folder: Path, model: GPT, tokenizer: Tokenizer, facts: dict) -> None:
    """A folder for `from_pretrained`, whole or not at all."""
    theirs = hf_model(model, tokenizer, facts)
    check_logits(model, theirs)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        optional("transformers").utils.logging.disable_progress_bar()
        theirs.save_pretrained(made)
        hf_tokenizer(tokenizer).save_pretrained(made)
        name_as_before(made)
        for private in (made, made / "model.safetensors"):  # temporary ones let nobody else in
            private.chmod(0o755 if private.is_dir() else 0o644)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def name_as_before(folder: Path) -> None:
    """Give two things the names that transformers 4 reads too: with its own defaults it would
    rotate a quarter of GPT-NeoX's channels, and it does not know the tokenizer's class.
    """
    files = {name: folder / name for name in ("config.json", "tokenizer_config.json")}
    config, of_tokenizer = (json.loads(file.read_text()) for file in files.values())
    if rope := config.get("rope_parameters"):
        theta = rope["rope_theta"]
        config |= {"rotary_pct": 1.0, "rotary_emb_base": theta, "rope_theta": theta}
    of_tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    for file, content in zip(files.values(), (config, of_tokenizer), strict=True):
        file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def find_checkpoint(model: Path) -> Path:
    found = find_checkpoints(model)
    if len(found) > 1:
        raise UserError(
            f"{model} holds {len(found)} seeds; export one, as --model {found[0].parent}"
        )
    return found[0]


def export(args) -> None:
    file = find_checkpoint(args.model)
    model, tokenizer, checkpoint = load_model(file, torch.device("cpu"))
    end = ".safetensors" if args.format == "safetensors" else "_hf"
    out = args.out or file.with_name(file.stem + end)
    if out.exists():
        raise UserError(f"{out} exists; remove it, or give another --out")
    check_writable(out.parent, "--out")
    write = write_safetensors if args.format == "safetensors" else write_hf
    write(out, model, tokenizer, facts_of(checkpoint))
    print(f"{out}: {model.n_params():,} parameters of {file} (epoch {checkpoint['epoch']})")


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: export(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
