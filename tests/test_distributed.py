"""Several processes under torchrun, on CPU with gloo, against one process alone.

The heavier half, whole runs and killed workers, is in tests/faults/test_scale.py.
"""

import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

import train_minigpt_4070 as t
from runtime import distributed
from trainer.helpers import CPU, build, draw_rows, make_model, no_scaler

ROWS = draw_rows(40, seed=3)
# Batches of 9, 4 and 1 rows: the parts are unequal, and of the last one process gets none.
BATCHES = [np.stack([np.arange(n), np.arange(n)[::-1] + 20]) for n in (9, 4, 1)]


def steps(team, optimizer="adamw"):
    """Three steps of two replicas, dropout 0, with accumulation: (losses, norms, weights)."""
    torch.set_num_threads(1)
    data, model = t.Resident(build(ROWS), CPU), make_model(seeds=(0, 1))
    optimizer = t.make_optimizer(model, 0.01, optimizer=optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    model.train()
    losses = []
    for rows in BATCHES:
        own = np.array_split(rows, team.size, axis=1)[team.rank]
        pieces = [p for p in np.array_split(own, 2, axis=1) if p.shape[1]]
        batches = [t.make_batch(data, piece) for piece in pieces]
        results = t.train_step(model, optimizer, no_scaler(), batches, max_grad_norm=1.0, team=team)
        losses.append(results)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return [loss for loss, _ in losses], [norm for _, norm in losses], weights


def one_of_two(rank, port, folder):
    """What a process does in the test below; torchrun would set these variables."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    world = distributed.join_world()
    found = {name: steps(world, name) for name in t.OPTIMIZERS}
    found["gathered"] = distributed.gather(world, rank * 10)
    found["most"] = [distributed.most_of_processes(world, value) for value in (0, 15 * rank)]
    found["first"] = [distributed.barrier(world, value=rank), distributed.from_first(world, rank)]
    try:
        distributed.barrier(world, (2, "error: mine") if rank == 1 else None)
    except distributed.EndTogether as end:
        found["end"] = end.args
    torch.save(found, folder / f"{rank}.pt")
    distributed.leave_world(world, 0)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_step_as_one(tmp_path):
    mp.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    alone = {name: steps(distributed.ALONE, name) for name in t.OPTIMIZERS}
    for own in found:
        for optimizer, (losses, norms, weights) in alone.items():
            own_losses, own_norms, own_weights = own[optimizer]
            torch.testing.assert_close(own_losses, losses, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(own_norms, norms, rtol=1e-4, atol=1e-6)
            for name, w in weights.items():
                torch.testing.assert_close(own_weights[name], w, rtol=0, atol=1e-5)
                assert torch.equal(found[0][optimizer][2][name], own_weights[name]), name
        assert own["gathered"] == [0, 10]
        assert own["most"] == [0, 15]
        assert own["first"] == [0, 0]
        assert own["end"] == (2, "error: mine")


@pytest.mark.parametrize(
    ("n_seeds", "size", "shares"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1, 2], [3, 4]]),
        (2, 2, [[0], [1]]),
        (3, 1, [[0, 1, 2]]),
    ],
)
def test_seeds_are_shared_out_in_runs(n_seeds, size, shares):
    for rank, share in enumerate(shares):
        seeds, team = distributed.share_work(list(range(n_seeds)), distributed.World(rank, size))
        assert (seeds, team.size, team.rank) == (share, 1, 0)


def test_standing_before_and_after_the_start():
    for rank in range(2):
        world = distributed.World(rank, 2)
        standing = distributed.Standing.of(world)
        assert standing == distributed.Standing(before_start=True, reports_errors=rank == 0)
        standing.started(distributed.ALONE)  # each trains its share of the seeds
        assert standing == distributed.Standing(before_start=False, reports_errors=True)
        standing.started(world)  # both train the same ones
        assert standing == distributed.Standing(before_start=False, reports_errors=rank == 0)
    assert not distributed.Standing.of(distributed.ALONE).before_start


def test_with_fewer_seeds_than_processes_all_train_all_together():
    world = distributed.World(2, 3)
    assert distributed.share_work([5, 6], world) == ([5, 6], world)
