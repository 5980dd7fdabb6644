"""--optimizer muon: against torch.optim.Muon, replica by replica, and through whole runs."""

import math

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from reference import TOKENIZER
from trainer.helpers import (
    CPU,
    assert_same_run,
    batch_of,
    build,
    command,
    draw_rows,
    go,
    interrupt_at_step,
    no_scaler,
    resume,
    step_of,
    words,
)

FLAGS = words("--optimizer muon --seeds 0-2 --epochs 3 --dropout 0.2 --lr 1e-3")
EXAMPLES = build(draw_rows(40, seed=5))
needs_torchs = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9")


def make_model(seeds=(0,), swiglu=False):
    config = t.GPTConfig(len(TOKENIZER), 64, 16, 2, 2, 24, "learned", swiglu)
    return t.GPT(config, list(seeds))


def muon_of(model, lr=0.02, weight_decay=0.1, precision="fp32"):
    options = {"optimizer": "muon", "precision": precision}
    optimizer = t.make_optimizer(model, weight_decay, **options)
    t.set_learning_rate(optimizer, lr)
    return optimizer


def draw_gradients(model, step):
    for i, p in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(100 * step + i)
        p.grad = 0.1 * torch.randn(p.shape, generator=generator)


def matrices(model, gradient=False):
    """name -> each single matrix of replica 0 as torch's optimizers know them, [out, in]."""
    found = {}
    for name, p in model.named_parameters():
        if name.startswith("blocks.") and ".w_" in name:
            whole = p.grad if gradient else p.detach()
            parts = 3 if "w_qkv" in name else 2 if model.config.swiglu and "w_up" in name else 1
            for i, part in enumerate(whole[0].chunk(parts, dim=1)):
                found[f"{name} {i}"] = part.T.clone()
    return found


@needs_torchs
@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_five_steps_are_those_of_torchs_muon(monkeypatch, swiglu, precision):
    """Torch orthogonalizes in bf16 always; in fp32 it is made to leave its gradient's precision."""
    if precision == "fp32":
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    model = make_model(swiglu=swiglu)
    optimizer = muon_of(model, precision=precision)
    theirs = {name: torch.nn.Parameter(w) for name, w in matrices(model).items()}
    start = {name: w.detach().clone() for name, w in theirs.items()}
    assert len(theirs) == 2 * (7 if swiglu else 6)
    muon = torch.optim.Muon(
        theirs.values(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(5):
        for group in (*optimizer.param_groups, *muon.param_groups):
            group["lr"] = 0.02 / (1 + step)
        draw_gradients(model, step)
        for name, gradient in matrices(model, gradient=True).items():
            theirs[name].grad = gradient
        muon.step()
        optimizer.step()
    tolerance = 2e-6 if precision == "fp32" else 2e-3
    for name, w in matrices(model).items():
        assert float((theirs[name] - start[name]).abs().detach().max()) > 0.01
        torch.testing.assert_close(w, theirs[name].detach(), rtol=0, atol=tolerance, msg=name)


def test_the_rest_of_the_parameters_take_adamws_steps():
    ours, adamw = make_model(), make_model()
    optimizers = [muon_of(ours), t.make_optimizer(adamw, 0.1)]
    t.set_learning_rate(optimizers[1], 0.02)
    for step in range(3):
        for model, optimizer in zip((ours, adamw), optimizers, strict=True):
            draw_gradients(model, step)
            optimizer.step()
    other = dict(adamw.named_parameters())
    for name, p in ours.named_parameters():
        hidden = name.startswith("blocks.") and ".w_" in name
        assert torch.equal(p, other[name]) is not hidden, name


def test_an_orthogonalized_matrix_has_singular_values_near_one_and_the_same_directions():
    x = torch.randn(5, 6, 20, generator=torch.Generator().manual_seed(1))
    x[2] *= 1e-5
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    y = t.orthogonalize(x)
    values = u.mT @ y @ vh.mT  # of y, in the directions of x
    sizes = values.diagonal(dim1=1, dim2=2)
    assert 0.6 < float(sizes.min()) < float(sizes.max()) < 1.3
    assert float((values - torch.diag_embed(sizes)).abs().max()) < 1e-4
    assert t.orthogonalize(torch.zeros(1, 2, 3)).tolist() == [[[0.0] * 3] * 2]


def test_an_update_has_the_size_that_adamws_has():
    """Root mean square 0.2 of the rate; AdamW's own is 0.2 to 0.4 of it in training."""
    model = make_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = muon_of(model, lr=1.0, weight_decay=0.0)
    draw_gradients(model, 0)
    optimizer.step()
    for name, p in model.named_parameters():
        if name.startswith("blocks.") and ".w_" in name:
            rms = float((p.detach() - before[name]).square().mean().sqrt())
            assert rms == pytest.approx(0.2, rel=0.2), name


@pytest.mark.parametrize("swiglu", [False, True])
def test_replicas_side_by_side_step_as_each_alone(swiglu):
    def trained(seeds):
        model = make_model(seeds, swiglu).train()
        optimizer = muon_of(model)
        for step in range(3):
            rows = [np.random.default_rng([s, step]).permutation(40)[:8] for s in seeds]
            step_of(model, optimizer, [batch_of(EXAMPLES, np.stack(rows))], max_norm=1.0)
        return dict(model.named_parameters())

    together = trained((3, 4, 5))
    for r, seed in enumerate((3, 4, 5)):
        for name, p in trained((seed,)).items():
            torch.testing.assert_close(together[name][r : r + 1], p, rtol=1e-3, atol=2e-5)


def test_a_replica_that_is_not_finite_leaves_the_others_as_they_are():
    models = [make_model((0, 1)), make_model((0, 1))]
    for model, spoiled in zip(models, (False, True), strict=True):
        optimizer = muon_of(model)
        draw_gradients(model, 0)
        for p in model.parameters():
            p.grad[1] = math.nan if spoiled else p.grad[1]
        optimizer.step()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p[0], q[0])


def test_steps_in_a_graph_read_the_rate_from_its_tensor():
    """As a CUDA graph has it: fixed shapes, and a rate that is a tensor filled anew."""
    weights = []
    for kind, lr in ((t.StaticSteps, torch.zeros(())), (t.EagerSteps, 0.0)):
        model = make_model((0, 1)).train()
        steps = kind(
            model=model,
            optimizer=t.make_optimizer(model, 0.1, lr, optimizer="muon"),
            scaler=no_scaler(),
            data=t.Resident(EXAMPLES, CPU),
            batch_size=8,
        )
        steps.use_graph = False
        steps.begin_epoch(np.stack([np.arange(40), np.arange(40)[::-1]]))
        for i in range(5):
            steps.step(i, 0.01 / (1 + i), t.dropout_noise([0, 1], i))
        weights.append([p.detach().clone() for p in model.parameters()])
    for p, q in zip(*weights, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_nothing_in_a_step_waits_for_the_device():
    """A tensor of "meta" has no number, so asking for one raises."""
    with torch.device("meta"):
        model = make_model((0, 1))
        lr = torch.zeros(())
    optimizer = muon_of(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    (group,) = (group for group in optimizer.param_groups if "parts" in group)
    group["lr"] = lr
    with torch.no_grad():
        optimizer.update(group)
    assert {len(optimizer.state[p]) for p in group["params"]} == {1}


def test_a_step_that_overflows_in_fp16_is_skipped_by_both():
    model = make_model()
    optimizer, scaler = muon_of(model), torch.amp.GradScaler("cpu", enabled=True)
    before = [p.detach().clone() for p in model.parameters()]
    for gradient, moves in ((math.inf, False), (1.0, True)):
        scaler.scale(torch.zeros(()))
        for p in model.parameters():
            p.grad = torch.full_like(p, gradient)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        for p, q in zip(model.parameters(), before, strict=True):
            assert torch.equal(p, q) is not moves


@pytest.mark.parametrize("step", [4, 9])
def test_a_resumed_run_has_the_same_bits(world, monkeypatch, step):
    assert go(world, *FLAGS, out="whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        assert go(world, *FLAGS, "--save_every_steps", "3") == 130
    assert resume(world, *FLAGS, "--save_every_steps", "3") == 0
    assert_same_run(world / "whole", world / "run", range(3))
    saved = torch.load(world / "run/seed_0/last.pth", weights_only=True)["optimizer"]
    assert saved["blocks.0.w_up"].keys() == {"momentum_buffer"}
    assert saved["blocks.0.b_up"].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert saved["w_tokens"].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_a_checkpoint_of_another_optimizer_is_refused(world, capsys):
    flags = words("--epochs 2")
    assert go(world, *flags) == 0
    assert go(world, *flags, "--optimizer", "muon", out="other") == 0
    capsys.readouterr()
    assert resume(world, *flags, "--optimizer", "muon") == 2
    assert "--optimizer" in capsys.readouterr().err
    for name in ("last.pth", "previous.pth"):
        (world / "run" / name).write_bytes((world / "other" / name).read_bytes())
    assert resume(world, *flags) == 2
    assert "its optimizer is not adamw" in capsys.readouterr().err


def test_the_plan_counts_muons_memory(world, capsys):
    def plan(*flags):
        args = t.build_parser().parse_args(command(world, *words("--d_model 256"), *flags))
        return t.make_plan(args, t.load_run_data(args), 1)

    n = 12 * 256 * 256  # weights of the one block
    # One moment less; at the step's end updates and three copies of the matrices instead.
    activations, muon = plan(), plan("--optimizer", "muon")
    assert muon.n_params == activations.n_params
    at_end = 4 * muon.n_params + 16 * n
    assert muon.step_bytes == 12 * muon.n_params - 4 * n + at_end
    assert activations.step_bytes < 12 * muon.n_params + at_end
    assert go(world, "--dry_run", "--optimizer", "muon") == 0
    assert "; Muon on the blocks' matrices, AdamW on the rest" in capsys.readouterr().out
