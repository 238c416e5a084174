"""What job=whatif asks about the last task of a stream: the network after the tasks before, and the
bases with the candidates that are followed along each."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from ntkcl import experiment, forecast
from ntkcl.experiment.start import Initialised
from ntkcl.methods import is_naive
from ntkcl.resources import Meter
from ntkcl.training import problem as task_by_task
from ntkcl.training.settings import Training, rate
from ntkcl.types import Dataset, Params
from ntkcl.validation import SettingError, finite, one_of, share, whole
from ntkcl.validation import seed as checked_seed
from ntkcl.whatif import advice, gram, grid
from ntkcl.whatif.plan import KEEP
from ntkcl.whatif.price import price
from ntkcl.whatif.question import Question, question
from ntkcl.whatif.recipe import Recipe
from ntkcl.whatif.rules import check_elementwise

MEMORY = "anchors", "keep", "outputs", "numbers", "budget_mib"  # of `prepare`
SETTINGS = (
    "shares", "rates", "epochs", "schedule", "clip", "base_share", *MEMORY, "orders", "verify",
    "recommend", "slices", "seed",
)  # fmt: skip


class Group(NamedTuple):
    """A base and its name, and the candidates that are followed along it: coordinates, recipe."""

    name: str
    base: Recipe
    candidates: list[tuple[dict[str, Any], Recipe]]


class Initial(NamedTuple):
    """What is asked, after the tasks before; bases with their candidates; the seconds that the
    tasks before have taken, and what all is expected to take."""

    asked: Question
    groups: list[Group]
    seconds: dict[str, float]
    expected: dict[str, float]


def initial_question(
    named: Mapping[str, Any],
    settings: Mapping[str, Any],
    say: Callable[[str], None],
    methods: grid.Methods,
) -> Initial:
    """The tasks before the last one trained, once all settings are checked and the price is
    said."""
    _check(named, settings)
    meter, initialised = Meter(), experiment.initialise(**named)
    recipe = _recipe(initialised, named["training"], settings)
    factors = settings["rates"], settings["epochs"]
    groups = []
    for one in methods:
        candidates = grid.candidates(recipe, settings["shares"], *factors, (one,))
        base = grid.base_of(recipe, *factors, settings["base_share"])
        name = f"base with {candidates[0][0]['method']}" if len(methods) > 1 else "base"
        groups.append(Group(name, base._replace(method=one[1]), candidates))
    grid.check_verify(settings["verify"], sum(len(group.candidates) for group in groups))
    *before, last = named["stream"]
    sizes = len(last.train.x), sum(len(task.train.x) for task in before)
    for group in groups:
        with _naming(group):
            for asked_for in (group.base, *(one for _, one in group.candidates)):
                asked_for.checked(*sizes)
    asked, prices = _asked(initialised.problem, initialised.theta), []
    for group in groups:
        with _naming(group):
            prices.append(price(asked, group.base, **cache_settings(settings)))
    expected = grid.bill(prices, len(groups[0].candidates), settings["orders"])
    for line in grid.bill_lines(expected):
        say(line)
    theta = _trained(initialised.problem.at(recipe.learning_rate), initialised.theta)
    seconds = {"tasks_before": meter.read().seconds}
    return Initial(asked._replace(theta=theta), groups, seconds, expected)


@contextmanager
def _naming(group: Group) -> Iterator[None]:
    """Errors say which of `whatif.methods` they are about."""
    try:
        yield
    except SettingError as error:
        if is_naive(group.base.method):
            raise
        method = group.candidates[0][0]["method"]
        raise SettingError(f"whatif.methods, {method}: {error}") from error


def cache_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a base is kept, the arguments of `prepare`."""
    return {key: settings[key] for key in MEMORY}


def _check(named: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """ValueError for what is known before anything is computed."""
    if set(settings) != set(SETTINGS):
        unlike = sorted(set(settings) ^ set(SETTINGS))
        raise SettingError(
            f"whatif: {', '.join(unlike)} is unknown or missing; expected {', '.join(SETTINGS)}"
        )
    grid.check(settings["shares"], settings["rates"], settings["epochs"])
    keep = one_of("whatif.keep", settings["keep"], KEEP)
    if keep == "sketch":
        check_elementwise(named["optimizer"])
    if keep == "gram":
        gram.check(named["optimizer"])
    if settings["outputs"] is not None:
        whole("whatif.outputs", settings["outputs"])
    if settings["numbers"] is not None:
        whole("whatif.numbers", settings["numbers"])
    finite("whatif.budget_mib", settings["budget_mib"], above=0.0)
    stream, training = named["stream"], named["training"]
    if len(stream) < 2:
        raise SettingError(
            f"stream.tasks={len(stream)}: job=whatif needs at least 2 tasks, the last of which is "
            "the new one"
        )
    experiment.check(stream, named["loss"], training, ())
    share("whatif.base_share", settings["base_share"])
    advice.check(settings["recommend"], settings["base_share"], stream)
    whole("whatif.orders", settings["orders"])
    whole("whatif.anchors", settings["anchors"])
    checked_seed("whatif.seed", settings["seed"])
    if any((np.asarray(task.head) != np.asarray(stream[0].head)).any() for task in stream):
        raise SettingError(
            "stream: its tasks have heads of their own, and job=whatif asks about one head; "
            "expected stream.scenario=class or domain"
        )
    if not is_naive(named["method"]):
        raise SettingError(
            "method: job=whatif trains the tasks before the last without one, and asks about those "
            "of whatif.methods; expected method=naive"
        )
    if named["network"].centred:
        raise SettingError(
            "network.centred=true: job=whatif asks about the network itself; expected "
            "network.centred=false"
        )
    plain = {"optimizer_state": "reset", "schedule": None, "compute": None}
    for name, value in plain.items():
        if getattr(training, name) != value:
            instead = " and whatif.schedule" if name == "schedule" else ""
            raise SettingError(
                f"training.{name}: job=whatif trains every task from rest, as its candidates are; "
                f"expected {value or 'null'}{instead}"
            )


def _recipe(initialised: Initialised, training: Training, settings: Mapping[str, Any]) -> Recipe:
    """The last task as a run would train it."""
    problem, last = initialised.problem, initialised.problem.stream[-1]
    size = len(last.train.x)
    batch = training.batch_size or size
    # A given rate is taken as it is: the limit would be that of a network that is not trained yet.
    needed = training.learning_rate is None or problem.network.rate_scale != 1
    limit = np.inf
    if needed:
        limit = forecast.limit(problem, initialised.theta, initialised.kernel_fn)
    return Recipe(
        learning_rate=rate(training, limit, problem.network.rate_scale),
        epochs=training.epochs or problem.steps[-1] * batch / size,
        batch_size=batch,
        optimizer=problem.optimizer,
        schedule=settings["schedule"],
        clip=settings["clip"],
        order=settings["seed"],
    )


def _trained(problem: task_by_task.Problem, theta: Params) -> Params:
    """theta after all tasks but the last."""
    for t in range(len(problem.stream) - 1):
        theta = task_by_task.train(problem, t, problem.trained, theta, ()).theta
    return finite_or_refused(theta, problem.learning_rate, "training on the tasks before the last")


def finite_or_refused(theta: Params, learning_rate: float, what: str) -> Params:
    if all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(theta)):
        return theta
    raise SettingError(
        f"training.learning_rate: {what} diverged at {learning_rate:g}; use a smaller one, or "
        "smaller whatif.rates"
    )


def _asked(problem: task_by_task.Problem, theta: Params) -> Question:
    *before, last = problem.stream
    old, pool = (
        Dataset(*(np.concatenate(part) for part in zip(*sets, strict=True)))
        for sets in ([task.test for task in before], [task.train for task in before])
    )
    given = {"pool": pool, "loss": problem.loss, "head": last.head}
    return question(problem.network, theta, old, last.train, **given)
