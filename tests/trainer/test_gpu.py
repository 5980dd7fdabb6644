"""Steps of fixed shape, CUDA graphs, and a GPU against the CPU."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_minigpt_4070 as t
from data.tasks import draw_example, standard_tasks
from reference import TOKENIZER
from trainer.helpers import build, draw_rows, make_model


def static_and_eager(
    device, dropout, R, precision="fp32", use_graph=False, n=30, optimizer="adamw"
):
    """(losses and norms [steps, 2, R], model) of two epochs by StaticSteps, then by EagerSteps."""
    examples, found, device = build(draw_rows(n, seed=12)), [], t.choose_device(device)
    orders = [
        np.stack([np.random.default_rng([r, e]).permutation(n) for r in range(R)]) for e in range(2)
    ]
    for kind in (t.StaticSteps, t.EagerSteps):
        model = make_model(seeds=tuple(range(R)), dropout=dropout).to(device).train()
        model.set_precision(precision)
        lr = torch.zeros((), device=device) if use_graph else 0.0
        moved_by = t.make_optimizer(
            model,
            0.01,
            lr if kind is t.StaticSteps else 0.0,
            optimizer=optimizer,
            precision=precision,
        )
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        steps = kind(
            model=model,
            optimizer=moved_by,
            scaler=scaler,
            data=t.Resident(examples, device),
            batch_size=8,
        )
        steps.use_graph = use_graph
        results = []
        for epoch, order in enumerate(orders):
            steps.begin_epoch(order)
            for i in range(-(-n // 8)):  # the last batch has 6 of 8 rows, or 5
                loss, norms = steps.step(
                    i, 1e-3 * (i + 1), t.dropout_noise(list(range(R)), 4 * epoch + i)
                )
                results.append(torch.stack([loss, norms]).cpu().clone())
        found.append((torch.stack(results), model))
    return found


def test_a_batch_has_no_more_slots_than_there_are_rows():
    examples = build(draw_rows(5, seed=12))
    rows, places, slots, n_answers = t.fixed_slots(examples, np.arange(5)[None], 8)
    assert rows.shape == places.shape == (1, 1, 5)
    assert len(slots) == 5
    assert n_answers == (examples.lengths - examples.answer_start + 1).sum()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("R", "n"), [(1, 30), (3, 30), (2, 5)])
def test_steps_of_fixed_shape_equal_steps_of_their_own_shape(R, n, dropout):
    (static, one), (eager, other) = static_and_eager("cpu", dropout, R, n=n)
    torch.testing.assert_close(static, eager, rtol=1e-4, atol=1e-5)
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("captures", [True, False])
def test_a_graph_is_captured_after_warming_up_and_given_up_once_it_fails(monkeypatch, captures):
    told = []

    def on_capture_stream(step, device):
        told.append("warm-up")
        step()

    class Graph:
        def __init__(self, step):
            self.step = step

        def replay(self):
            told.append("replay")
            self.step()

    def capture(step, device):
        told.append("capture")
        return Graph(step) if captures else None

    monkeypatch.setattr(t, "on_capture_stream", on_capture_stream)
    monkeypatch.setattr(t, "capture", capture)
    (static, _), (eager, _) = static_and_eager("cpu", 0.3, 2, use_graph=True, n=48)
    torch.testing.assert_close(static, eager, rtol=1e-4, atol=1e-5)
    first = [*3 * ["warm-up"], "capture"]  # 6 steps an epoch
    later = [*3 * ["replay"], "warm-up", "capture", *5 * ["replay"]]
    assert told == (first + later if captures else first)


def test_epochs_of_one_layout_share_a_graph():
    """What a graph reads and writes stays where it is; what it has to read is the new epoch's."""
    fixed = ("layout", "now", "noise", "results", "graph")

    def steps_of(texts, R=2):
        examples = build([f"[copy] {text} | 7" for text in texts])
        model = make_model(seeds=tuple(range(R)))
        steps = t.StaticSteps(
            model=model,
            optimizer=t.make_optimizer(model, 0.0),
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            data=t.Resident(examples, t.choose_device("cpu")),
            batch_size=4,
        )
        steps.begin_epoch(np.stack([np.arange(8)] * R))
        steps.graph = "captured"
        return steps, [getattr(steps, name) for name in fixed]

    steps, before = steps_of(range(10, 18))
    steps.begin_epoch(np.stack([np.arange(8)[::-1]] * 2))
    assert all(getattr(steps, name) is old for name, old in zip(fixed, before, strict=True))
    assert steps.rows[:, 0].tolist() == [[[7, 6, 5, 4]] * 2, [[3, 2, 1, 0]] * 2]
    steps.begin_epoch(np.arange(8)[None])  # a replica has left
    assert steps.graph is None
    assert steps.now.shape == (2, 1, 4)
    steps, _ = steps_of([*"1234", *(digit * 40 for digit in "1234")])
    steps.begin_epoch(np.stack([[0, 4, 1, 2, 3, 5, 6, 7]] * 2))
    assert steps.graph is None


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("R", [1, 3])
def test_a_cuda_graph_does_the_eager_steps(R, precision, monkeypatch):
    monkeypatch.setattr(t.tqdm, "write", pytest.fail)  # so it says that there is no graph
    (graph, _), (eager, _) = static_and_eager("cuda", 0.3, R, precision, use_graph=True)
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    torch.testing.assert_close(graph, eager, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("R", [1, 3])
def test_a_cuda_graph_does_muons_steps(R, monkeypatch):
    monkeypatch.setattr(t.tqdm, "write", pytest.fail)
    (graph, one), (eager, other) = static_and_eager(
        "cuda", 0.3, R, use_graph=True, optimizer="muon"
    )
    torch.testing.assert_close(graph, eager, rtol=1e-3, atol=1e-3)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_graph_drops_something_else_at_each_step(monkeypatch):
    monkeypatch.setattr(t.tqdm, "write", pytest.fail)
    (graph, _), (eager, _) = static_and_eager("cuda", 0.5, 1, use_graph=True, n=64)
    assert len({round(float(loss), 6) for loss in graph[:, 0, 0]}) == len(graph)
    torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-4)


def dropping_steps(kind, device):
    """Steps of two replicas with dropout, at the beginning of an epoch of 8."""
    model = make_model(seeds=(0, 1), dropout=0.3).to(device).train()
    steps = kind(
        model=model,
        optimizer=t.make_optimizer(model, 0.01, torch.zeros((), device=device)),
        scaler=torch.amp.GradScaler(device.type, enabled=False),
        data=t.Resident(build(draw_rows(64, seed=2)), device),
        batch_size=8,
    )
    steps.begin_epoch(np.arange(64)[None].repeat(2, 0))
    return steps


@pytest.mark.gpu
@needs_gpu
def test_the_host_waits_for_no_step():
    steps = dropping_steps(t.StaticSteps, t.choose_device("cuda"))
    for i in range(5):
        steps.step(i, 1e-3, t.dropout_noise([0, 1], i))
    assert steps.graph is not None
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(5, 8):
            steps.step(i, 1e-3, t.dropout_noise([0, 1], i))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", [t.StaticSteps, t.EagerSteps])
def test_noise_goes_to_the_device_as_the_data_do(kind, monkeypatch):
    """By `put`, from pinned memory: any other copy would make the host wait for the step."""
    steps, gone, original = dropping_steps(kind, torch.device("cpu")), [], t.put
    steps.use_graph = False
    monkeypatch.setattr(t, "put", lambda a, device: gone.append(a) or original(a, device))
    noise = t.dropout_noise([0, 1], 7)
    steps.step(0, 1e-3, noise)
    assert any(np.array_equal(array, noise.numpy()) for array in gone)


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_drops_what_a_cpu_does():
    masks = []
    for name in ("cpu", "cuda"):
        device = t.choose_device(name)
        data = t.Resident(build(draw_rows(12, seed=8)), device)
        batch = t.make_batch(data, np.arange(12).reshape(2, 6), places=np.arange(6))
        keys = t.site_keys(t.dropout_noise([0, 1], 3).to(device), batch, 5)
        masks.append(t.dropout_masks(keys, 66, 0.3).cpu())
    assert torch.equal(*masks)


@pytest.mark.gpu
@needs_gpu
def test_where_no_graph_can_be_captured_the_steps_are_the_same(monkeypatch, capsys):
    real = t.lay_rows

    def waits(data, rows, *args):
        float(rows.sum())  # no capture survives a read
        return real(data, rows, *args)

    monkeypatch.setattr(t, "lay_rows", waits)
    (graph, _), (eager, _) = static_and_eager("cuda", 0.0, 1, use_graph=True)
    torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-4)
    assert capsys.readouterr().out.count("note: no CUDA graph") == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    F.dropout(torch.ones(4, device="cuda")).sum().item()


@pytest.mark.gpu
@needs_gpu
def test_a_model_of_50_million_parameters_trains_at_batch_128_within_8_gb(monkeypatch):
    monkeypatch.setattr(t.tqdm, "write", pytest.fail)
    # The card the script is named after is sold with 8 GB (laptops) and 12 GB.
    rng = random.Random(1)
    examples = build([draw_example(rng, standard_tasks()[i % 5]) for i in range(2_000)])
    config = t.GPTConfig(len(TOKENIZER), 128, 512, 16, 8, 2048, dropout=0.1)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    device = t.choose_device("cuda")
    model = t.GPT(config, [0]).to(device).train()
    model.set_precision("bf16")
    optimizer = t.make_optimizer(model, 0.01, torch.zeros((), device=device))
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    steps = t.StaticSteps(
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        data=t.Resident(examples, device),
        batch_size=128,
    )
    steps.begin_epoch(np.arange(2_000)[None])
    for i in range(8):
        steps.step(i, 1e-4, t.dropout_noise([0], i))
    torch.cuda.synchronize()
    assert model.n_params() > 50e6
    peak, n_tokens = torch.cuda.max_memory_reserved(), len(steps.layout.pos)
    assert peak < 8e9
    expected = t.memory_bytes(
        config, n_params=model.n_params(), R=1, tokens=n_tokens, precision="bf16", device=device
    )
    assert torch.cuda.max_memory_allocated() == pytest.approx(expected, rel=0.15)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_on_a_gpu_equals_one_on_the_cpu(precision):
    examples = build(["[copy] 1 2 3 | 1 2 3", "[add] 12 + 9 | 21", "[rev] 1 2 | 2 1"])
    rows, losses, norms = np.array([[0, 1, 2], [2, 0, 1]]), {}, {}
    for name in ("cpu", "cuda"):
        device = t.choose_device(name)
        model = make_model(seeds=(0, 1)).to(device).train()
        model.set_precision(precision)
        optimizer = t.make_optimizer(model, 0.01)
        t.set_learning_rate(optimizer, 1e-3)
        scaler = torch.amp.GradScaler(name, enabled=False)
        for _ in range(3):
            batches = [t.make_batch(t.Resident(examples, device), rows)]
            loss, norm = t.train_step(model, optimizer, scaler, batches, max_grad_norm=1.0)
        losses[name], norms[name] = loss.cpu(), norm.cpu()
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(norms["cuda"], norms["cpu"], rtol=5 * tolerance, atol=5 * tolerance)
