"""Dropout's bits: their statistics, and that seed, step, site, place, position and channel alone
decide them."""

import math

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from trainer.helpers import (
    CPU,
    TRAIN_ROWS,
    assert_same_weights,
    batch_of,
    build,
    draw_rows,
    go,
    gradients,
    lines_of,
    make_model,
    words,
)

EXAMPLES = build(draw_rows(40, seed=9))


def masks_of_examples(seeds, rows, p=0.5, step=3, C=10, places=None):
    """Masks at the real positions of each example: {(seed, place): float [sites, T, C]}.

    `places` are those of the columns of `rows`; by default as they stand.
    """
    rows = np.asarray(rows)
    places = np.arange(rows.shape[1]) if places is None else np.asarray(places)
    batch = t.make_batch(t.Resident(EXAMPLES, CPU), rows, places=places)
    masks = t.dropout_masks(t.site_keys(t.dropout_noise(seeds, step), batch, 5), C, p)
    found, start = {}, 0
    for k, width in enumerate(T for b, T in batch.groups for _ in range(b)):
        for r, seed in enumerate(seeds):
            column = batch.order[r, k]
            n = EXAMPLES.lengths[rows[r, column]]
            found[seed, int(places[column])] = masks[:, r, start : start + n]
        start += width
    return found


def orders(seeds, n=8):
    return np.stack([np.random.default_rng(seed).permutation(len(EXAMPLES))[:n] for seed in seeds])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_scale_and_independence(p):
    """Sites, replicas, places, positions and channels agree as often as independent draws do."""
    batch = batch_of(EXAMPLES, np.stack([np.arange(40), np.arange(40)]))
    keys = t.site_keys(t.dropout_noise([0, 1], 0), batch, 3)
    masks = t.dropout_masks(keys, 256, p)  # [3, 2, N, 256]
    zero = masks == 0
    n, sigma = zero.numel(), math.sqrt(p * (1 - p) / zero.numel())
    assert zero.float().mean().item() == pytest.approx(p, abs=5 * sigma)
    assert masks[~zero].unique().tolist() == [pytest.approx(1 / (1 - p), rel=1e-4)]
    chance = p * p + (1 - p) ** 2
    pairs = [zero[a] == zero[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    pairs += [zero[:, 0] == zero[:, 1]]
    pairs += [zero[:, :, d:] == zero[:, :, :-d] for d in (1, 2, 16)]
    pairs += [zero[..., d:] == zero[..., :-d] for d in (1, 2, 3, 4, 5, 64, 128)]
    for agree in pairs:
        tolerance = 5 * math.sqrt(chance * (1 - chance) / (n / 3))
        assert agree.float().mean().item() == pytest.approx(chance, abs=tolerance)
    # No row and no channel is dropped more often than chance has it.
    for axis in (-1, -2):
        share = zero.float().mean(axis)
        assert (share - p).abs().max() < 6 * math.sqrt(p * (1 - p) / zero.shape[axis])


def test_each_16_bits_of_a_word_are_uniform():
    words_ = t.mix(t.mix(torch.arange(2**18) * t.GOLDEN)[:, None] ^ t.channel_keys(4, CPU))
    for lane in words_.view(torch.int16).view(-1, 4).T:
        counts = torch.bincount(lane.long() + 32768, minlength=65536)
        chi2 = float(((counts - 16.0) ** 2 / 16).sum())
        assert abs(chi2 - 65535) < 6 * math.sqrt(2 * 65535)


def test_a_replicas_bits_are_the_same_alone_and_among_others():
    alone = masks_of_examples([6], orders([6]))
    for seeds in ([5, 6], [6, 7, 8], [9, 6]):
        together = masks_of_examples(seeds, orders(seeds))
        for key, mask in alone.items():
            assert torch.equal(together[key], mask), (seeds, key)
    assert not torch.equal(together[9, 0][:, :5], together[6, 0][:, :5])


@pytest.mark.parametrize("cuts", [[4], [1, 2, 7], [3, 5]])
def test_bits_are_the_same_at_once_and_in_pieces(cuts):
    rows = orders([5, 6])
    whole, pieces = masks_of_examples([5, 6], rows), {}
    for places in np.split(np.arange(8), cuts):
        pieces |= masks_of_examples([5, 6], rows[:, places], places=places)
    assert pieces.keys() == whole.keys()
    assert all(torch.equal(pieces[key], whole[key]) for key in whole)


def test_another_seed_step_site_or_place_drops_something_else():
    same = np.zeros((1, 2), int)  # one example twice
    found = masks_of_examples([5], same)
    n = found[5, 0].shape[1]
    different = [*found[5, 0], found[5, 1][0]]  # the sites, and the other place
    different += [
        masks_of_examples([6], same)[6, 0][0],
        masks_of_examples([5], same, step=4)[5, 0][0],
    ]
    different += [found[5, 0][0].roll(1, 0), found[5, 0][0].roll(1, 1)]  # positions and channels
    for i, one in enumerate(different):
        for other in different[:i]:
            assert 0.3 < float((one == other).float().mean()) < 0.7, n


def test_dropout_is_in_training_only_and_its_backward_pass_has_the_same_mask():
    batch, noise = batch_of(EXAMPLES, np.arange(12)), t.dropout_noise([0], 3)
    model = make_model(dropout=0.2, std=0.2).train()
    one, other = (gradients(model, batch, noise=noise) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    later = gradients(model, batch, noise=t.dropout_noise([0], 4))
    assert not torch.equal(one["w_tokens"], later["w_tokens"])

    # A small step along the gradient lowers the loss of the very same masks as it should.
    n_targets = int(batch.n_targets)

    def loss():
        return t.answer_loss(model(batch, noise=noise), batch.targets).item() / n_targets

    before, size = loss(), 1e-4
    with torch.no_grad():
        for name, p in model.named_parameters():
            p -= size * one[name]
    expected = size * sum(float(g.double().pow(2).sum()) for g in one.values())
    assert before - loss() == pytest.approx(expected, rel=0.05)
    model.eval()
    assert torch.equal(model(batch), model(batch, noise=noise))


def test_steps_with_dropout_at_once_in_pieces_and_of_fixed_shape_are_the_same():
    found = []
    for kind, micro_batches in ((t.EagerSteps, 1), (t.EagerSteps, 3), (t.StaticSteps, 1)):
        model = make_model(seeds=(4, 5), dropout=0.3).train()
        steps = kind(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            data=t.Resident(EXAMPLES, CPU),
            batch_size=12,
            micro_batches=micro_batches,
        )
        steps.use_graph = False
        steps.begin_epoch(orders([4, 5], 40))
        for i in range(4):
            loss, norms = steps.step(i, 0.1, t.dropout_noise([4, 5], i))
            found.append(torch.stack([loss, norms]).clone())
    whole, pieces, static = torch.stack(found).view(3, 4, 2, 2)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(static, whole, rtol=1e-5, atol=1e-6)


def test_a_step_of_a_replica_with_dropout_is_the_same_alone_and_among_others():
    def step(seeds):
        model = make_model(seeds=seeds, dropout=0.3).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        noise, batch = t.dropout_noise(seeds, 7), batch_of(EXAMPLES, orders(seeds))
        loss, norms = t.train_step(
            model,
            optimizer,
            torch.amp.GradScaler("cpu", enabled=False),
            [batch],
            max_grad_norm=1e9,
            noise=noise,
        )
        return loss, norms, model

    loss, norms, alone = step([6])
    for seeds in ([5, 6], [6, 7, 8]):
        losses, several, together = step(seeds)
        r = seeds.index(6)
        torch.testing.assert_close(losses[r], loss[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(several[r], norms[0], rtol=1e-4, atol=1e-6)
        for p, q in zip(alone.parameters(), together.parameters(), strict=True):
            torch.testing.assert_close(q[r : r + 1], p, rtol=1e-4, atol=1e-6)


def test_every_step_of_a_run_has_noise_of_its_own_by_the_seeds_that_train(world, monkeypatch):
    asked, original = [], t.dropout_noise
    monkeypatch.setattr(
        t, "dropout_noise", lambda seeds, step: asked.append((seeds, step)) or original(seeds, step)
    )
    assert go(world, *words("--epochs 3 --dropout 0.3 --seeds 4,7")) == 0
    assert asked == [([4, 7], step) for step in range(3 * math.ceil(len(TRAIN_ROWS) / 8))]


def last_loss(folder):
    return lines_of(folder / "metrics.jsonl")[-1]["optimized_loss"]


def test_a_seed_of_a_run_does_not_depend_on_its_neighbours(world):
    """To rounding: other seeds make other paddings, and sums in another order."""
    few = words("--epochs 3 --dropout 0.3 --amp fp32")
    for out, flags in (("01", "--seeds 0-1"), ("12", "--seeds 1-2"), ("1", "--seed 1")):
        assert go(world, *few, *words(flags), out=out) == 0
    folders = [world / "1", world / "01/seed_1", world / "12/seed_1"]
    losses = [last_loss(folder) for folder in folders]
    assert losses[1:] == [pytest.approx(losses[0], rel=1e-4)] * 2
    for folder in folders[1:]:
        assert_same_weights(folder / "last.pth", folders[0] / "last.pth", exact=False)


def test_memory_decides_how_a_batch_is_cut_and_not_what_is_dropped(world, monkeypatch):
    flags = words("--epochs 3 --accumulation_steps 3 --batch_size 4 --dropout 0.3")
    assert go(world, *flags, out="whole") == 0
    monkeypatch.setattr(t, "AT_ONCE", 0.0)
    assert go(world, *flags, out="pieces") == 0
    one, other = (
        t.read_checkpoint(world / out / "last.pth")["step"] for out in ("whole", "pieces")
    )
    assert one == other
    assert last_loss(world / "pieces") == pytest.approx(last_loss(world / "whole"), rel=1e-4)
    assert_same_weights(world / "pieces/last.pth", world / "whole/last.pth", exact=False)
