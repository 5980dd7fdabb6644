"""Which epoch is best, and when patience ends a run."""

from pathlib import Path

import train_minigpt_4070 as t


def judged(history, patience=3, min_delta=0.0, all_in_from=1):
    """Feed (exact, loss) epoch by epoch; return (best flags, replica)."""
    replica, flags = t.Replica(0, Path(".")), []
    for epoch, (exact, loss) in enumerate(history, 1):
        record = {"val_exact_match": exact, "val_loss": loss}
        best = replica.update_early_stopping(
            record,
            step=epoch,
            steps_an_epoch=1,
            all_tasks_in=epoch >= all_in_from,
            min_delta=min_delta,
            patience=patience,
        )
        flags.append(best)
        if replica.finished:
            break
    return flags, replica


def test_best_is_the_highest_exact_match_then_the_lowest_loss():
    flags, replica = judged(
        [(0.1, 1.0), (0.1, 0.9), (0.2, 5.0), (0.1, 0.1), (0.2, 5.0), (0.2, 4.0)]
    )
    assert flags == [True, True, True, False, False, True]
    assert (replica.best_exact, replica.best_loss) == (0.2, 4.0)


def test_patience_counts_epochs_in_which_neither_improved():
    # Loss improves on its own (epoch 4) though the best model stays that of epoch 2.
    history = [(0.1, 1.0), (0.3, 0.9), (0.2, 0.95), (0.2, 0.8), (0.2, 0.9), (0.3, 0.8), (0.1, 2.0)]
    flags, replica = judged([*history, (0.1, 2.0)])
    assert flags[:2] == [True, True]
    assert replica.stale_epochs == 3
    assert "no improvement in 3 epochs" in replica.finished
    assert len(flags) == 7
    flags, replica = judged(history * 3, patience=0)
    assert (len(flags), replica.finished) == (21, "")


def test_until_every_task_is_in_the_latest_is_best():
    history = [(0.9, 0.1), (0.5, 0.5), (0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9), (0.0, 1.0)]
    flags, replica = judged(history, patience=2, all_in_from=5)
    assert flags == [True, True, True, True, True, False, False]
    assert replica.best_exact == 0.2
    assert "no improvement in 2 epochs" in replica.finished
    assert judged([(1.0, 0.1)] * 9, all_in_from=10)[1].finished == ""


def test_two_perfect_validations_running_end_the_run():
    flags, replica = judged([(1.0, 0.1), (0.9, 0.2), (1.0, 0.1), (1.0, 0.05), (1.0, 0.01)])
    assert flags == [True, False, False, True]
    assert "learned" in replica.finished


def test_small_steps_count_once_they_add_up_to_min_delta():
    flags, replica = judged([(0.0, 1 - 0.6 * k) for k in range(10)], patience=3, min_delta=1.0)
    assert (len(flags), replica.finished) == (10, "")
    flags, replica = judged([(0.0, 1 - 0.1 * k) for k in range(10)], patience=3, min_delta=1.0)
    assert flags == [True] * 4  # any gain makes the best model
    assert "no improvement in 3 epochs" in replica.finished


def test_where_nothing_is_unseen_it_goes_by_the_seen_ones_and_says_so():
    replica = t.Replica(0, Path("."))
    for epoch, loss in enumerate((0.2, 0.1), 1):
        record = {"val_exact_match": None, "val_loss": None}
        record |= {"val_exact_match_seen": 1.0, "val_loss_seen": loss}
        best = replica.update_early_stopping(
            record,
            step=10 * epoch,
            steps_an_epoch=10,
            all_tasks_in=True,
            min_delta=0,
            patience=5,
        )
        assert best
    assert replica.best_loss == 0.1
    assert replica.finished == "learned: every seen example stayed right for an epoch"
