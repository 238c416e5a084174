"""Every quantity of a run, one row each: its key, its label, its unit, its meaning.

A key is the dotted name of a number in `summary.json`, `<anchor>` and the like stand for one name.
Whatever shows quantities takes their labels from here. A new metric is a function in
`ntkcl.metrics` and a row here; `final_table.METRICS`, `columns.DEFAULT_VALUES` are shown unasked.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache

from ntkcl.runs.quantity import MATRIX, NUMBER, PER_TASK, TEXT, Quantity
from ntkcl.validation import SettingError

# R[i, j] is the accuracy on task j after task i, b[j] that of the untrained network, T the tasks.
SCORES = (
    Quantity("R", "accuracy after each task", "", "R[i, j] on test inputs", MATRIX),
    Quantity("R_loss", "loss after each task", "loss", "R_loss[i, j] on test inputs", MATRIX),
)
UNTRAINED = (
    Quantity("b", "accuracy when untrained", "", "b[j] on test inputs", PER_TASK),
    Quantity("b_loss", "loss when untrained", "loss", "b_loss[j] on test inputs", PER_TASK),
)
ACCURACIES = (
    Quantity("average_accuracy", "average accuracy", "", "mean_j R[T-1, j]"),
    Quantity("learning_accuracy", "learning accuracy", "", "mean_i R[i, i]"),
    Quantity("average_incremental_accuracy", "average incremental accuracy", "",
             "mean_i mean_{j<=i} R[i, j] (iCaRL)"),
    Quantity("accuracy_triangle", "accuracy of tasks seen", "", "mean of R[i, j] over i >= j"),
    Quantity("remembering", "remembering", "", "1 - |min(BWT over all pairs, 0)|"),
    Quantity("fwt_without_baseline", "accuracy on the next task", "", "mean_{j>=1} R[j-1, j]"),
    Quantity("forgetting_relative", "relative forgetting (Graldi et al.)", "",
             "(R[j, j] - R[T-1, j]) / R[j, j], mean over all tasks"),
    Quantity("forgetting_rate", "forgetting rate (joint training)", "",
             "mean_j (R[T-1, j] - b[j]) / (a_joint[j] - b[j]) - 1"),
)  # fmt: skip
LOSSES = (
    Quantity("average_loss", "average loss", "loss", "mean_j R_loss[T-1, j]"),
    Quantity("learning_loss", "learning loss", "loss", "mean_i R_loss[i, i]"),
    Quantity("average_incremental_loss", "average incremental loss", "loss",
             "mean_i mean_{j<=i} R_loss[i, j]"),
    Quantity("loss_triangle", "loss of tasks seen", "loss", "mean of R_loss[i, j] over i >= j"),
)  # fmt: skip
# Differences of scores. Of losses they are those of -R_loss and -b_loss: the signs mean the same.
DIFFERENCES = (
    Quantity("bwt_gem", "backward transfer (GEM)", "", "mean_{j<T-1} R[T-1, j] - R[j, j]"),
    Quantity("bwt_gem_code", "backward transfer (GEM's code)", "", "GEM's sum, divided by T"),
    Quantity("bwt_all_pairs", "backward transfer (all pairs)", "",
             "mean over i > j of R[i, j] - R[j, j]"),
    Quantity("bwt_positive", "positive backward transfer", "", "max(BWT over all pairs, 0)"),
    Quantity("fwt_gem", "forward transfer (GEM)", "", "mean_{j>=1} R[j-1, j] - b[j]"),
    Quantity("fwt_gem_code", "forward transfer (GEM's code)", "", "GEM's sum, divided by T"),
    Quantity("fwt_independent", "forward transfer (independent training)", "",
             "mean_{j>=1} R[j, j] - a_ind[j], a_ind[j] of a network trained on task j alone"),
    Quantity("forgetting_chaudhry", "forgetting (Chaudhry et al.)", "",
             "mean_{j<T-1} max_{i<=T-2} R[i, j] - R[T-1, j]"),
    Quantity("forgetting_first", "forgetting since learned", "",
             "mean_{j<T-1} R[j, j] - R[T-1, j]"),
    Quantity("forgetting_learned", "forgetting since the best before the end", "",
             "mean_{j<T-1} max_{j<=i<=T-2} R[i, j] - R[T-1, j]"),
    Quantity("forgetting_peak", "forgetting since the best", "",
             "mean_{j<T-1} max_{j<=i<=T-1} R[i, j] - R[T-1, j]"),
    Quantity("forgetting_peak_next", "forgetting since the best (next task's row included)", "",
             "as since the best, with i >= max(j-1, 0)"),
    Quantity("forgetting_peak_all_tasks", "forgetting since the best (all tasks)", "",
             "its sum, divided by T"),
    Quantity("forgetting_graldi", "forgetting since learned (all tasks, Graldi et al.)", "",
             "mean over all tasks of R[j, j] - R[T-1, j]"),
)  # fmt: skip
# Of a forecast beside its measurement. Drift: the change of old tasks' outputs, from just after
# each was learned to the end of the stream. On train inputs; below `test.` on test inputs.
AGREEMENT = (
    Quantity("drift_r2", "drift, predicted and measured (R²)", "",
             "R² of the predicted drift, all outputs of all old tasks"),
    Quantity("drift_cosine", "drift, predicted and measured (cosine)", "", "uncentred cosine"),
    Quantity("drift_slope", "drift, measured over predicted (slope)", "", "least squares"),
    Quantity("skill", "skill over the mean drift", "",
             "1 - squared error / that of the measured mean drift of each old task and output"),
    Quantity("change_r2", "change by each later task (R²)", "",
             "R² of old tasks' output changes, one later task at a time"),
    Quantity("spearman_offdiagonal", "loss change of task pairs (Spearman)", "",
             "over i != j, of the loss change on task j by training task i"),
    Quantity("spearman_samples", "loss change of samples (Spearman)", "",
             "over the samples of old tasks"),
    Quantity("flip_f1", "flips of right and wrong (F1)", "",
             "F1 of predicted right-to-wrong and wrong-to-right flips"),
    Quantity("spearman_pairs", "squared drift of task pairs (Spearman)", "",
             "over pairs of an old task and a later one, of the mean squared change"),
    Quantity("baselines.<baseline>.skill", "skill over a baseline", "",
             "1 - squared error of the forecast / that of the baseline"),
    Quantity("baselines.<baseline>.r2", "drift, baseline and measured (R²)", "",
             "R² of the baseline's own drift"),
    Quantity("baselines.<baseline>.spearman_pairs", "squared drift, baseline (Spearman)", "",
             "as for the forecast, with the baseline's number of each pair"),
    Quantity("trial_r2", "trial at the predicted parameters (R²)", "",
             "R² of the predicted drift with that of the network at the predicted parameters"),
    Quantity("halved_r2", "trial in two half predictions (R²)", "",
             "R² of that with the network predicted in two halves of the steps"),
    Quantity("coarse_r2", "forecast by half as many steps (R²)", "",
             "R² of the predicted drift with that of half as many steps, where it took few"),
    Quantity("segments_r2", "forecast by half as many segments (R²)", "",
             "R² of the predicted drift with that of half as many segments"),
    Quantity("lower_order_r2", "forecast by its own lower order (R²)", "",
             "R² of the predicted drift with that by the tangents of its segments, or its strides"),
    Quantity("own_r2", "checks on the new inputs themselves (R²)", "",
             "the least R² of trial and lower order on the inputs of the task in training"),
    Quantity("forgetting_miss", "forgetting by checks and predicted, apart", "",
             "|difference of mean rises| / mean magnitude of samples' rises, the most of checks"),
    Quantity("balance", "predicted rises that cancel", "",
             "|mean| / mean magnitude of the predicted rise of old samples' losses"),
    Quantity("verdict", "verdict before training", "", "good, fair, poor or unknown", TEXT),
    Quantity("reasons", "reasons", "", "why the verdict is not better, and remarks", TEXT),
    Quantity("forgetting_predicted", "rise of old tasks' loss, predicted", "loss",
             "from just after each old task to the end", PER_TASK),
    Quantity("forgetting_measured", "rise of old tasks' loss, measured", "loss",
             "from just after each old task to the end", PER_TASK),
    Quantity("mean_forgetting_predicted", "mean rise of old tasks' loss, predicted", "loss",
             "the mean of forgetting_predicted"),
    Quantity("mean_forgetting_measured", "mean rise of old tasks' loss, measured", "loss",
             "the mean of forgetting_measured"),
)  # fmt: skip
# Of the kernel K_tt of each task t where the forecast stands.
NUMERICS = (
    Quantity("rate_times_eigenvalue", "learning rate times top eigenvalue", "",
             "h lam_max(K_tt)", PER_TASK),
    Quantity("stable", "learning rate within the limit", "", "of the task's kernel", PER_TASK),
    Quantity("limit_share", "share of the stability limit", "", "of the task's kernel", PER_TASK),
    Quantity("negative_mass", "share of negative eigenvalues", "",
             "in sum |lam|; rounding if small", PER_TASK),
    Quantity("condition", "condition number", "", "lam_max / lam_min", PER_TASK),
    Quantity("smallest_eigenvalue", "smallest eigenvalue", "", "lam_min(K_tt)", PER_TASK),
    Quantity("kernels", "kernels computed", "", "by the form `integrated`; segments", PER_TASK),
    Quantity("gradients", "gradients computed", "", "by the form `integrated`", PER_TASK),
)  # fmt: skip
REFERENCES = (
    Quantity("accuracy", "accuracy of a reference", "", "on test inputs", PER_TASK),
    Quantity("loss", "loss of a reference", "loss", "on test inputs", PER_TASK),
)
OF_A_RUN = (
    Quantity("schema", "schema", "", "number of the run folder's format", TEXT),
    Quantity("status", "status", "", "completed, diverged or forecast", TEXT),
    Quantity("kernel.top_ratio", "top eigenvalue over that at initialisation", "",
             "lam_max(K_tt) as each task begins, over that at initialisation", PER_TASK),
    Quantity("kernel.top_drift", "drift of the kernel's top eigenvalue", "",
             "mean of |ratio - 1| over tasks 1, 2, ..."),
    Quantity("kernel.smallest_eigenvalue", "smallest eigenvalue as each task begins", "",
             "lam_min(K_tt)", PER_TASK),
    Quantity("kernel.loss_slope_predicted", "slope of the loss as each task begins, predicted",
             "loss", "of gradient flow: -g . K_tt g = -|dL_t/dtheta|^2, g = dL_t/df", PER_TASK),
    Quantity("kernel.loss_slope_measured", "slope of the loss as each task begins, measured",
             "loss", "the change by the first step, over its learning rate", PER_TASK),
    Quantity("kernel.loss_slope_ratio", "slope of the loss, measured over predicted", "",
             "mean over tasks, null if one has none; 1 for small learning rates"),
    Quantity("learning_rate", "learning rate", "", "as used"),
    Quantity("learning_rate_limit", "stability limit of the learning rate", "",
             "the smallest of any task's kernel at initialisation"),
    Quantity("seconds.<phase>", "time", "s", "wall-clock time of a phase, compilation included"),
    Quantity("peak_mib.<phase>", "peak memory", "MiB", "resident memory of the process"),
    Quantity("environment.<name>", "environment", "", "versions, devices, cores, host", TEXT),
)  # fmt: skip


def _under(prefix: str, rows: Sequence[Quantity]) -> tuple[Quantity, ...]:
    return tuple(row._replace(key=f"{prefix}.{row.key}") for row in rows)


def _on(part: str, rows: Sequence[Quantity], template: str) -> tuple[Quantity, ...]:
    """The same rows of train or test inputs; `template` makes their keys, such as "{}_train"."""
    return tuple(
        row._replace(
            key=template.format(row.key),
            label=f"{row.label}, {part} inputs",
            meaning=row.meaning.replace("on test inputs", f"on {part} inputs"),
        )
        for row in rows
    )


LOSS_DIFFERENCES = tuple(
    row._replace(label=f"{row.label}, of the loss", unit="loss", meaning=f"{row.meaning}, of -loss")
    for row in DIFFERENCES
)
METRICS = (
    *_under("metrics", (*ACCURACIES, *DIFFERENCES)),
    *_under("metrics_loss", (*LOSSES, *LOSS_DIFFERENCES)),
)
FORECAST = (
    *SCORES,
    *_on("train", SCORES, "{}_train"),
    *METRICS,
    *AGREEMENT,
    *NUMERICS,
    *_on("test", AGREEMENT, "test.{}"),
)
QUANTITIES = (
    *OF_A_RUN,
    *SCORES,
    *UNTRAINED,
    *_on("train", (*SCORES, *UNTRAINED), "{}_train"),
    *METRICS,
    *_under("reference.<kind>", (*REFERENCES, *_on("train", REFERENCES, "{}_train"))),
    *_under("forecast.<anchor>", FORECAST),
)
# What Weights & Biases draws as lines, by the axis they are drawn over.
HISTORY = {
    "step": (
        Quantity("train.loss", "training loss", "loss", "of each step"),
        Quantity("curve.acc.<task>", "accuracy within training", "", "on test inputs"),
        Quantity("curve.loss.<task>", "loss within training", "loss", "on test inputs"),
    ),
    "task": (
        Quantity("acc.<task>", "accuracy on each task", "", "on test inputs"),
        Quantity("loss.<task>", "loss on each task", "loss", "on test inputs"),
        Quantity("forecast.<anchor>.acc.<task>", "predicted accuracy on each task",
                 "", "on test inputs"),
        Quantity("forecast.<anchor>.loss.<task>", "predicted loss on each task",
                 "loss", "on test inputs"),
        Quantity("kernel.<task>_<task>.top_ratio", "top eigenvalue over that at initialisation",
                 "", "lam_max(K_tt) as each task begins, over that at initialisation"),
    ),
}  # fmt: skip
# What a number needs beside R and b, or beside one forecast.
NEEDS_REFERENCE = {"fwt_independent": "single", "forgetting_rate": "joint"}
NEEDS_ANCHORS = {"kernel.top_drift": {"init", "boundary"}}


@cache
def _patterns() -> tuple[tuple[re.Pattern, Quantity], ...]:
    rows = (*QUANTITIES, *HISTORY["step"], *HISTORY["task"])
    return tuple((_pattern(row.key), row) for row in rows)


def _pattern(key: str) -> re.Pattern:
    """What a key matches: a placeholder stands for one part of a dotted name."""
    return re.compile(re.sub(r"<\w+>", "([^.]+)", key.replace(".", r"\.")))


@cache
def find(name: str) -> tuple[Quantity, tuple[str, ...]] | None:
    """The row of a dotted name, and what stands for its placeholders; None where no row fits."""
    for pattern, row in _patterns():
        if match := pattern.fullmatch(name):
            return row, match.groups()
    return None


def label(name: str) -> str:
    """The label alone, for where a column already says which anchor; else the name itself."""
    found = find(name)
    return found[0].label if found else name


def heading(name: str) -> str:
    """The label with the unit and what stands for placeholders: "time (train, s)"."""
    found = find(name)
    if found is None:
        return name
    row, places = found
    notes = [place for place in places if "<" not in place]
    if row.unit and row.unit not in row.label:
        notes.append(row.unit)
    if not notes:
        return row.label
    # one pair of brackets: "drift, predicted and measured (R², init)"
    start = f"{row.label[:-1]}, " if row.label.endswith(")") else f"{row.label} ("
    return f"{start}{', '.join(notes)})"


def capital(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def axis(name: str) -> str:
    """The label with its unit, for a plot's axis."""
    found = find(name)
    unit = found[0].unit if found else ""
    return f"{label(name)} ({unit})" if unit and unit not in label(name) else label(name)


def heads() -> set[str]:
    """The first parts of all keys."""
    return {row.key.split(".")[0] for row in QUANTITIES}


def check_number(setting: str, name: str, anchors: Sequence[str], kinds: Sequence[str]) -> None:
    """ValueError for a dotted name that is no single number in the summary of such a run."""
    keys = list(_numbers(anchors, kinds))
    if any(_pattern(key).fullmatch(name) for key in keys):
        return
    known = sorted(key for key in keys if "<" not in key)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise SettingError(f"{setting}={name}: no such number in summary.json; the nearest is {near}")


def _numbers(anchors: Sequence[str], references: Sequence[str]) -> Iterator[str]:
    """The keys of single numbers in the summary of a run with these anchors and references."""
    for row in QUANTITIES:
        reference = NEEDS_REFERENCE.get(row.key.split(".")[-1])
        lacks_reference = reference is not None and reference not in references
        lacks_anchor = not NEEDS_ANCHORS.get(row.key, set()) <= set(anchors)
        if row.form != NUMBER or lacks_reference or lacks_anchor:
            continue
        if "<anchor>" in row.key:
            yield from (row.key.replace("<anchor>", anchor) for anchor in anchors)
        else:
            yield row.key
