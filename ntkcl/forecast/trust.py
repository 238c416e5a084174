"""How far a forecast may be trusted, from signs that are there before the training it foretells.

The telling sign is a trial: the network's parameters are moved to where the forecast says training takes them, theta + J^T alpha, and
its true outputs there are compared with the linearised ones. Where they part, the forecast does not know its own way.
"""

from collections.abc import Sequence

# Of the R2 of the forecast with its own trial; `results/README.md` tells how forecasts on either side of them did.
GOOD, FAIR = 0.95, 0.8
ROUNDING = 1e-3  # share of eigenvalues below zero that is more than rounding


def verdict(trial_r2: float, stable: Sequence[bool], negative_mass: Sequence[float]) -> tuple[str, tuple[str, ...]]:
    """("good" | "fair" | "poor" | "unknown", reasons).

    Arguments:
      trial_r2: of the forecast drift with that of the network moved as foretold; NaN where there was no trial.
      stable: whether the learning rate is within the limit of each task's kernel.
      negative_mass: the share of each kernel's eigenvalues below zero, NaN where it is not known.
    """
    reasons = []
    if not all(stable):
        reasons.append("the learning rate is over the stability limit")
    if any(mass > ROUNDING for mass in negative_mass):
        reasons.append("the kernel has negative eigenvalues beyond rounding")
    if reasons:
        return "poor", tuple(reasons)
    if trial_r2 != trial_r2:
        return "unknown", ("there was no trial, or no old task",)
    if trial_r2 >= GOOD:
        return "good", ()
    return ("fair" if trial_r2 >= FAIR else "poor"), (
        f"moved as foretold, the network departs from its linearisation, R2 {trial_r2:.2f}",
    )
