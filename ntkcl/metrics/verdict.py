"""How far a forecast may be trusted, from signs that are there before the training it foretells.

The telling sign is a trial: the network's parameters are moved to where the forecast says training takes them, theta + J^T alpha, and
its true outputs there are compared with the linearised ones. Where they part, the forecast does not know its own way. Nor does it
where two strides of half the steps, the second from where the first has led, end elsewhere than the one.
"""

import math
from collections.abc import Sequence

# Of the lesser of the two R2; `results/README.md` tells how forecasts on either side of them did.
GOOD, FAIR = 0.95, 0.8
# Share of the stability limit above which nothing is "good". On digits (three tasks, width 256) the
# largest eigenvalue grew by 2 to 8 % from the untrained network to a task's start: at .9 of the limit
# all later kernels were within it, at .95 and .99 one was not in six runs of eight, and forecasts from
# its boundary had R2 below -20,000. With momentum .9, at the limit itself, the drift R2 from
# initialisation was -8.5 and the trial's .98.
NEAR = 0.9
ROUNDING = 1e-3  # share of eigenvalues below zero that is more than rounding


def verdict(
    trial_r2: float,
    halved_r2: float,
    stable: Sequence[bool],
    negative_mass: Sequence[float],
    condition: Sequence[float],
    limit_share: Sequence[float] = (),
) -> tuple[str, tuple[str, ...]]:
    """("good" | "fair" | "poor" | "unknown", reasons).

    Arguments:
      trial_r2: of the forecast drift with that of the network moved as foretold; NaN where there was no trial.
      halved_r2: of that with the network's that was moved in two strides; NaN where there were none, and then the trial alone counts.
      stable: whether the learning rate is within the limit of each task's kernel.
      negative_mass: the share of each kernel's eigenvalues below zero, NaN where it is not known.
      condition: of each kernel, infinite where it is singular: a remark, since a rule does exactly as it would in training.
      limit_share: the learning rate over the stability limit of each task's kernel, NaN where it is
        not known. Above `NEAR` the verdict is "fair" at best.
    """
    remarks = (
        [f"the kernel of {sum(map(math.isinf, condition))} tasks is singular"]
        if any(map(math.isinf, condition))
        else []
    )
    against = [
        *(["the learning rate is over the stability limit"] if not all(stable) else []),
        *(
            ["the kernel has negative eigenvalues beyond rounding"]
            if any(mass > ROUNDING for mass in negative_mass)
            else []
        ),
    ]
    if against:
        return "poor", (*against, *remarks)
    share = max((one for one in limit_share if one > NEAR), default=None)
    near = (
        []
        if share is None
        else [
            f"the learning rate is {share:.2f} of the stability limit, which later kernels may lower"
        ]
    )
    least = trial_r2 if math.isnan(halved_r2) else min(trial_r2, halved_r2)
    if math.isnan(trial_r2):
        return "unknown", ("there was no trial, or no old task", *near, *remarks)
    signs = {
        f"moved as foretold, the network departs from its linearisation, R2 {trial_r2:.2f}": trial_r2,
        f"moved in two strides it departs from where one takes it, R2 {halved_r2:.2f}": halved_r2,
    }
    against = [sign for sign, r2 in signs.items() if r2 < GOOD] + near
    return "good" if least >= GOOD and not near else "fair" if least >= FAIR else "poor", (
        *against,
        *remarks,
    )
