"""What becomes of single samples: right or wrong, flips between the two, margins."""

import numpy as np


def correct(f, y, head):
    """Whether each prediction is right: [..., n, c], [n, c], mask [c] -> [..., n].

    1 right, 0 wrong, NaN where f is.
    With several active outputs the largest one decides; with a single one its sign does. A tie
    counts as breaking it at random would on average, 1/k among k equals: a centred network that was
    not trained is at chance, not at class 0.
    """
    active = np.flatnonzero(head)
    f, y = f[..., active], y[..., active]
    if len(active) == 1:
        return 0.5 * (1 + np.sign(f[..., 0] * y[..., 0]))
    best = f == f.max(-1, keepdims=True)
    true_class = np.broadcast_to(y.argmax(-1)[..., None], (*f.shape[:-1], 1))
    right = np.take_along_axis(best, true_class, -1)[..., 0]
    with np.errstate(invalid="ignore"):  # 0 / 0, no equals: NaN where f is
        return right / best.sum(-1)


def flip_lost(before, after):
    """Per sample, right before and wrong after: max(before - after, 0) of `correct`, [..., n].

    For a task S, with `before` just after training S and `after` at the end,
    mean(lost) - mean(gained) = R[S, S] - R[T-1, S] exactly, ties too.
    """
    return np.maximum(np.asarray(before, float) - np.asarray(after, float), 0)


def flip_gained(before, after):
    """Per sample, wrong before and right after: the reverse of `flip_lost`."""
    return flip_lost(after, before)


def forgetting_events(right, learned):
    """Per sample of task `learned`, how often a later task made it wrong: [T, n] -> [n].

    Counts i > learned with a sample right after task i-1 and wrong after task i; `right` [T, n] is
    `correct` after each task. Source: Toneva et al. 2019, counted by task.
    """
    return flip_lost(right[learned:-1], right[learned + 1 :]).sum(0)


def margin(f, y, head):
    """Per sample, f_y - max_{a != y} f_a over active outputs, or y f of a single one.

    [..., n, c], [n, c], mask [c] -> [..., n].
    """
    active = np.flatnonzero(head)
    f, y = f[..., active], y[..., active]
    if len(active) == 1:
        return f[..., 0] * y[..., 0]
    own = np.broadcast_to(np.arange(len(active)) == y.argmax(-1)[..., None], f.shape)
    return np.where(own, f, 0).sum(-1) - np.where(own, -np.inf, f).max(-1)


def margin_change(before, after, y, head):
    """Per sample, the margin after minus that before; below 0 is nearer to being forgotten."""
    return margin(after, y, head) - margin(before, y, head)
