"""Training rows that stand for the training set in a comparison."""

import numpy as np


def matched_sample(train, like, rows, seed=0):
    """Distinct training rows with the tags and lengths of `like[rows]`, int64 [<= len(rows)].

    The generalization gap compares equals: same tasks, same lengths. Where no row of a length is
    left the next longer one stands in, and at the end the longest.
    """
    rng = np.random.default_rng(seed)
    distinct = rng.permutation(train.distinct()[0])
    like_tags, chosen = like.tags[rows], []
    for tag in np.unique(like_tags):
        candidates = distinct[train.tags.isin([tag])[distinct]]
        candidates = candidates[np.argsort(train.lengths[candidates], kind="stable")]
        wanted = np.sort(like.lengths[rows][like_tags == tag])[: len(candidates)]
        at = np.searchsorted(train.lengths[candidates], wanted)
        steps = np.arange(len(wanted))
        at = np.maximum.accumulate(at - steps) + steps  # no row twice
        last = len(candidates) - len(wanted)
        chosen.append(candidates[np.minimum(at - steps, last) + steps])
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def sample_by_count(train, per_count, rng):
    """Distinct training rows at each repeat count, the same number of each task.

    Counts, grouped by powers of two, are compared over equal task mixes: a count that some task
    lacks is left out (by chance only short sums are drawn often). Returns the rows, the count of
    each, and whether grouping changed any count.
    """
    distinct, repeats = train.distinct()
    groups, tasks = 2 ** np.log2(repeats).astype(int), train.tasks.codes[distinct]
    names, counts, chosen = sorted(train.tasks.names), [], []
    for count in np.unique(groups):
        cells = [
            np.flatnonzero((groups == count) & (tasks == train.tasks.names.index(name)))
            for name in names
        ]
        size = min(per_count // len(names), *(len(cell) for cell in cells))
        chosen += [distinct[rng.permutation(cell)[:size]] for cell in cells]
        counts += [int(count)] * size * len(names)
    return np.concatenate(chosen), counts, bool((groups != repeats).any())
