"""runtime/ledger.py: what is written comes back, and nothing else is taken for a ledger."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import ledger
from runtime.errors import UserError
from runtime.ledger import LEDGER_FILE, Ledger, kept_epochs, read_ledger, read_panel

ARRAYS = ("keys", "members", "canary_counts", "last_steps", "epochs", "steps", "bits", "exact")


def make_ledger(seed=0, n_train=10, n_canaries=3, n_held_out=5, n_epochs=4, rng_seed=0):
    rng = np.random.default_rng(rng_seed + seed)
    N = n_train + n_canaries + n_held_out
    made = Ledger.empty(
        seed=seed,
        share=0.5,
        keys=np.arange(N) * 7 - 20,
        members=rng.random(n_train) < 0.5,
        canary_counts=rng.integers(0, 33, n_canaries),
    )
    for epoch in range(1, n_epochs + 1):
        last_steps = rng.integers(0, 100, n_train + n_canaries, dtype=np.int32)
        made.add(epoch, 100 * epoch, rng.exponential(8, N), rng.random(N) < 0.5, last_steps)
    return made


def test_doctests():
    assert doctest.testmod(ledger) == (0, 1)


@given(st.integers(1, 40), st.integers(0, 9), st.integers(0, 17), st.integers(0, 5))
def test_what_is_written_comes_back(tmp_path_factory, n_train, n_canaries, n_held_out, n_epochs):
    folder = tmp_path_factory.mktemp("seed")
    made = make_ledger(3, n_train, n_canaries, n_held_out, n_epochs)
    made.write(folder)
    found = read_ledger(folder / LEDGER_FILE)
    assert (found.seed, found.share, found.n_train, found.n_canaries) == (
        *(3, 0.5, n_train),
        n_canaries,
    )
    for name in ARRAYS:
        assert np.array_equal(getattr(found, name), getattr(made, name)), name
        assert getattr(found, name).dtype == getattr(made, name).dtype, name


def test_bits_are_kept_to_three_digits_and_never_become_infinite():
    made = make_ledger(n_epochs=0)
    made.add(1, 10, np.full(18, 12.345), np.zeros(18), made.last_steps)
    made.add(2, 20, np.full(18, 1e6), np.zeros(18), made.last_steps)
    assert made.bits[0] == pytest.approx(np.full(18, 12.345), rel=2**-11)
    assert (made.bits[1] == 65504).all()


def test_a_resumed_run_drops_what_lies_after_its_step():
    made = make_ledger()
    made.cut_after(250)
    assert made.epochs.tolist() == [1, 2]
    assert made.bits.shape == (2, 18)
    assert made.exact.shape == (2, 18)
    assert not made.last_steps.any()  # those were of a later epoch
    made = make_ledger()
    made.cut_after(400)
    assert made.last_steps.any()


def test_a_ledger_of_the_first_format_is_read_and_says_nothing_of_the_order(tmp_path):
    made = make_ledger()
    made.write(tmp_path)
    with np.load(tmp_path / LEDGER_FILE) as arrays:
        older = {name: arrays[name] for name in arrays if name != "last_steps"} | {"format": 1}
    np.savez(tmp_path / LEDGER_FILE, **older)
    found = read_ledger(tmp_path / LEDGER_FILE)
    assert np.array_equal(found.bits, made.bits)
    assert (found.last_steps.shape, found.last_steps.any()) == ((13,), False)
    np.savez(tmp_path / LEDGER_FILE, **older | {"format": 3})
    with pytest.raises(UserError, match="format 3, this program reads 1 and 2"):
        read_ledger(tmp_path / LEDGER_FILE)


def test_damage_and_other_files_are_told_in_one_sentence(tmp_path):
    made = make_ledger()
    made.write(tmp_path)
    path, data = tmp_path / LEDGER_FILE, (tmp_path / LEDGER_FILE).read_bytes()
    for n in range(0, len(data), 97):
        path.write_bytes(data[:n])
        with pytest.raises(UserError, match="no ledger of this program, or damaged"):
            read_ledger(path)
    path.unlink()
    with pytest.raises(UserError, match="does not exist; train the panel"):
        read_ledger(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": np.full((4, 18), np.nan, np.float16)}, "not all numbers"),
        ({"bits": np.full((4, 18), -1, np.float16)}, "not all numbers"),
        ({"epochs": np.array([1, 1, 2, 3])}, "contradict"),
        ({"n_train": 17}, "members has the shape|contradict"),
        ({"keys": np.zeros(4, np.int64)}, "has the shape"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(tmp_path, change, said):
    made = make_ledger()
    for name, value in change.items():
        setattr(made, name, value)
    made.write(tmp_path)
    with pytest.raises(UserError, match=said):
        read_ledger(tmp_path / LEDGER_FILE)


def test_a_pickle_inside_is_never_loaded(tmp_path):
    np.savez(
        tmp_path / LEDGER_FILE,
        **{name: np.array([{}], object) for name in ledger.FIXED + ledger.SERIES},
    )
    with pytest.raises(UserError, match="no ledger"):
        read_ledger(tmp_path / LEDGER_FILE)


def test_a_byte_changed_anywhere_is_refused_or_changes_nothing(tmp_path):
    """zipfile, zlib and numpy raise nine kinds of error between them."""
    make_ledger().write(tmp_path)
    path = tmp_path / LEDGER_FILE
    whole, before, refused = path.read_bytes(), read_ledger(path), 0
    for i in range(len(whole)):
        for changed in (whole[i] ^ 0xFF, whole[i] ^ 1):
            path.write_bytes(whole[:i] + bytes([changed]) + whole[i + 1 :])
            try:
                after = read_ledger(path)
            except UserError as error:
                refused += "restore it" in str(error)
                continue
            assert np.array_equal(after.bits, before.bits)
            assert np.array_equal(after.exact, before.exact)
    assert refused > len(whole)


def write_all(tmp_path, ledgers):
    folders = [tmp_path / f"seed_{i}" for i in range(len(ledgers))]
    for folder, made in zip(folders, ledgers, strict=True):
        folder.mkdir()
        made.write(folder)
    return folders


def test_a_panel_stacks_its_seeds_and_leaves_out_one_that_left_early(tmp_path):
    ledgers = [make_ledger(seed, n_epochs=4 if seed != 1 else 2) for seed in range(3)]
    panel, notices = read_panel(write_all(tmp_path, ledgers))
    assert (panel.seeds, panel.R, panel.bits.shape) == ([0, 2], 2, (4, 2, 18))
    assert np.array_equal(panel.members[1], ledgers[2].members)
    assert np.array_equal(panel.exact[:, 1], ledgers[2].exact)
    assert notices == ["seed 1 is left out: its ledger ends with epoch 2, the others' with 4"]
    assert panel.keys[panel.held_out].tolist() == ledgers[0].keys[13:].tolist()


def test_a_seed_that_lacks_an_epoch_in_between_is_left_out(tmp_path):
    lacking = make_ledger(1, n_epochs=1)
    lacking.add(4, 400, np.zeros(18), np.zeros(18), lacking.last_steps)
    panel, notices = read_panel(write_all(tmp_path, [make_ledger(0), lacking]))
    assert panel.seeds == [0]
    assert notices == ["seed 1 is left out: its ledger lacks epochs that the others' have"]


def test_seeds_of_other_panels_are_refused(tmp_path):
    ledgers = [make_ledger(0), make_ledger(1)]
    ledgers[1].keys = ledgers[1].keys + 1
    with pytest.raises(UserError, match="speaks of other examples"):
        read_panel(write_all(tmp_path, ledgers))


def test_one_seed_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds one seed twice"):
        read_panel(write_all(tmp_path, [make_ledger(0), make_ledger(0)]))


def test_kept_epochs_begin_and_end_the_run():
    for n in (1, 2, 7, 30, 1000):
        kept = kept_epochs(n)
        assert kept[0] == 1
        assert kept[-1] == n
        assert len(set(kept)) == len(kept) <= 12
