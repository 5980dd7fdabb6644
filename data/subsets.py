"""Which examples each replica of a panel trains on, and the canaries planted among them.

A panel is one run of many seeds, each of which trains on its own random part of the distinct
examples. What a model makes of an example it has seen, less what the models that have not seen it
make of it, is memory. So every draw here is a pure function of the data, the share and the seed: a
resumed run, a process of torchrun and a later reader find the same one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.formats import Examples

SUBSET_STREAM = 0x5B5E7  # keeps these draws apart from those of training


@dataclass(frozen=True)
class Subsets:
    """The part of a training set that each seed of a panel trains on.

    The N distinct examples stand in ascending order of their keys, so that a set shuffled otherwise
    gives the same panel. All copies of an example go together. Each seed draws for itself: with
    each example in exactly half of the replicas, the others would tell of which half it is.
    """

    train: Examples
    share: float  # of the distinct examples, above 0 to 1

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    @cached_property
    def _distinct(self):
        return np.unique(
            self.train.keys, return_index=True, return_inverse=True, return_counts=True
        )

    @property
    def keys(self) -> np.ndarray:
        """int64 [N]: the keys of the distinct examples, ascending."""
        return self._distinct[0]

    @property
    def first_rows(self) -> np.ndarray:
        """int64 [N]: the first row of each example."""
        return self._distinct[1]

    @property
    def repeat_counts(self) -> np.ndarray:
        """int64 [N]: how many rows are that example."""
        return self._distinct[3]

    @property
    def n_members(self) -> int:
        """Examples that a seed trains on; at least one."""
        return max(1, round(self.share * len(self.keys)))

    @cached_property
    def _strata(self):
        """int64 [N]: the number of each example's stratum, by task and then repeat count."""
        tasks = self.train.tasks.codes[self.first_rows].astype(np.int64)
        strata = tasks * (self.repeat_counts.max() + 1) + self.repeat_counts
        return np.unique(strata, return_inverse=True)[1]

    def members(self, seed: int) -> np.ndarray:
        """bool [N]: the examples that `seed` trains on, `n_members` of them.

        A systematic sample with a random start (Madow and Madow 1944) over the examples in random
        order within their strata: each is drawn with the same probability, and every stratum is
        represented to within one example. So no seed gets more of a task, or of repeated rows.
        """
        n, N = self.n_members, len(self.keys)
        rng = np.random.default_rng([SUBSET_STREAM, seed])
        order = rng.permutation(N)
        order = order[np.argsort(self._strata[order], kind="stable")]
        # Whole numbers, so that exactly n are taken whatever rounding does.
        reached = (np.arange(N + 1, dtype=np.int64) * n + int(rng.integers(N))) // N
        member = np.zeros(N, dtype=bool)
        member[order] = np.diff(reached) > 0
        return member

    def rows(self, seed: int) -> np.ndarray:
        """int64: the training rows of the members, ascending."""
        return np.flatnonzero(self.members(seed)[self._distinct[2].reshape(-1)])

    def epoch_rows(self, tasks) -> int:
        """Rows of one epoch over `tasks`, the same for every seed: as many as each has at least.

        A seed with more rows, by chance a few, leaves other ones out in each epoch.
        """
        wanted = self.train.tasks.isin(tasks)[self.first_rows]
        sizes = np.bincount(self._strata[wanted])
        counts = np.zeros(len(sizes), np.int64)
        counts[self._strata[wanted]] = self.repeat_counts[wanted]
        return int((sizes * self.n_members // len(self.keys) * counts).sum())
