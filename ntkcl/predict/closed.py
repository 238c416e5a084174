"""The solve of a training rule, `ntkcl.forecast.sequence`: squared error, full batches (for minibatches their mean path)."""

from ntkcl import forecast, kernels
from ntkcl.predict.setting import Anchor, Outcome, Setting, rule


def closed(setting: Setting, anchor: Anchor, count: int) -> list[Outcome]:
    """The next `count` tasks, by the training rule and the method's twin in kernel space."""
    tangent = kernels.tangent(setting.network, anchor.theta, setting.x, anchor.history[-1], setting.kernel_fn)
    ahead = anchor.ahead(count)

    def step(t):
        return lambda fs: setting.method.step(tangent, setting.tasks, t, [*anchor.history, *fs[1:]])

    rules = [rule(setting, setting.tasks[t]) for t in ahead]
    solves = forecast.sequence(tangent.columns, anchor.history[-1], [step(t) for t in ahead], rules)
    return [Outcome(solve.change, float(solve.top), forecast.negative_mass(solve.eigenvalues)) for solve in solves]
