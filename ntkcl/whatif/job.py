"""job=whatif: the last task of a stream is what a network may be trained on next.

The network is trained on the tasks before it. Their test samples are the old ones, their train
samples may be replayed, and the candidates of the settings `whatif` are answered for.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from ntkcl import experiment, forecast
from ntkcl.experiment.start import Initialised
from ntkcl.methods import is_naive
from ntkcl.resources import Meter
from ntkcl.training import problem as task_by_task
from ntkcl.training.settings import Training, rate
from ntkcl.types import Dataset, Params, Stream
from ntkcl.validation import SettingError, finite, one_of, share, whole
from ntkcl.validation import seed as checked_seed
from ntkcl.whatif import advice, gram, grid
from ntkcl.whatif.answers import Answer
from ntkcl.whatif.cache import prepare
from ntkcl.whatif.plan import KEEP
from ntkcl.whatif.price import price
from ntkcl.whatif.question import Question, question
from ntkcl.whatif.recipe import Recipe
from ntkcl.whatif.recommend import classes
from ntkcl.whatif.rules import check_elementwise

JOB = "whatif"
"""What the setting `job` is for these questions."""
MEMORY = "anchors", "keep", "outputs", "numbers", "budget_mib"  # of `prepare`
SETTINGS = (
    "shares", "rates", "epochs", "methods", "schedule", "clip", "base_share", *MEMORY, "orders",
    "verify", "recommend", "slices", "seed",
)  # fmt: skip
NO_COLUMNS: Mapping[str, Callable[[Any], Sequence]] = MappingProxyType({})
KEPT = {"gradients": "gradients", "gram": "Gram blocks", "sketch": "sketches", "passes": "passes"}
AT_RISK = 24  # old samples whose inputs are kept to be shown


class Answers(NamedTuple):
    """A row for each candidate, in the order of the grid, the summary, arrays by old sample, and a
    row for each slice of the old samples in each candidate."""

    rows: tuple[dict, ...]
    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]
    slices: tuple[dict, ...]


def run_job(
    named: Mapping[str, Any],
    settings: Mapping[str, Any],
    say: Callable[[str], None],
    columns: Mapping[str, Callable[[Any], Sequence]] = NO_COLUMNS,
    methods: grid.Methods = grid.NAIVE,
) -> Answers:
    """What each candidate would do to the tasks before the last one.

    Arguments:
      named: the arguments of `experiment.initialise`.
      settings: `whatif` of conf/config.yaml.
      say: called with a line for each phase.
      columns: labels [n] of inputs [n, ...] by name, by which old samples are grouped, beside their
        class and task.
      methods: what `whatif.methods` names; each has a base of its own.
    Raises ValueError for settings out of range, before anything is trained.
    """
    asked, groups, seconds, expected = _begun(named, settings, say, methods)
    stream, nothing = named["stream"], dict.fromkeys(advice.NAMES)
    given: list[_Followed] = []
    for group in groups:
        wanted = nothing if given else settings["recommend"]
        given.append(_followed(asked, group, settings, wanted, stream, say))
    rows, said = ([one for part in given for one in getattr(part, k)] for k in ("rows", "said"))
    origins = [part.origins for part in given for _ in part.rows]
    seconds |= {key: sum(part.seconds[key] for part in given) for key in given[0].seconds}
    say(f"{len(rows)} candidates answered for in {seconds['answers']:.1f} s")
    # All answers are given: training starts.
    trained = {}
    for place in grid.places_to_verify(rows, settings["verify"] or 0):
        came, trained[place] = grid.measured(asked, origins[place], said[place])
        rows[place] |= came
        say(f"trained candidate {place + 1}")
    seconds["verify"] = sum(row.get("seconds_measured", 0.0) for row in rows)
    numbers = partial(_numbers, asked, origins[0], settings["verify"] is not None)
    recommended = {name: advice.record(one, numbers) for name, one in given[0].chosen.items()}
    base = _named(groups[0].base) | {"method": rows[0]["method"]}
    summary = {"job": JOB, "candidates": len(rows), "base": base, "orders": settings["orders"]}
    summary |= given[0].facts | {"seconds": seconds}
    summary |= {"price": expected, "recommended": recommended} | grid.agreement(rows)
    arrays = _arrays(asked, origins[0].before, stream, said, trained)
    labelled = {"class": classes(arrays["targets"]), "task": arrays["task"]}
    labelled |= {name: np.asarray(labels(asked.old.x)) for name, labels in columns.items()}
    coordinates = [at for group in groups for at, _ in group.candidates]
    slices = [
        at | row
        for k, (at, answer) in enumerate(zip(coordinates, said, strict=True))
        for row in grid.slices(answer, labelled, trained.get(k))
    ]
    return Answers(tuple(rows), summary, arrays, tuple(slices))


class _Group(NamedTuple):
    """A base, and the candidates that are followed along it: coordinates, recipe."""

    base: Recipe
    candidates: list[tuple[dict[str, Any], Recipe]]


class _Followed(NamedTuple):
    """What is left of a base once it was asked: of each candidate a row and the answer, what is
    recommended, what all has taken, and what was kept."""

    rows: list[dict[str, Any]]
    said: list[Answer]
    origins: grid.Origins
    chosen: dict[str, advice.Choice]
    seconds: dict[str, float]
    facts: dict[str, Any]


def _followed(
    asked: Question,
    group: _Group,
    settings: Mapping[str, Any],
    wanted: Mapping[str, Any],
    stream: Stream,
    say: Callable[[str], None],
) -> _Followed:
    """The base trained and linearised, then asked."""
    cache, orders = prepare(asked, group.base, **_memory(settings)), settings["orders"]
    _finite(cache.end, group.base.learning_rate, f"the base, {group.candidates[0][0]['method']},")
    kept = KEPT[cache.keep]
    held = f"{kept} kept: {cache.mib:,.0f} MiB" if cache.keep != "passes" else "no gradients kept"
    say(f"base trained in {cache.seconds['train']:.1f} s, {held}")
    given = [grid.answered(cache, one, orders) for _, one in group.candidates]
    rows = [at | row for (at, _), (row, _) in zip(group.candidates, given, strict=True)]
    said, meter = [answer for _, answer in given], Meter()
    chosen = advice.choices(cache, wanted, said, orders, stream)
    seconds = {
        "base": cache.seconds["train"],
        "linearise": cache.seconds["linearise"],
        "answers": sum(row["seconds"] for row in rows),
        "recommend": meter.read().seconds,
    }
    facts = {"kept": kept, "mib": cache.mib, "outside": cache.outside}
    return _Followed(rows, said, grid.origins(cache), chosen, seconds, facts)


def _numbers(
    asked: Question, origins: grid.Origins, verify: bool, answer: Answer
) -> dict[str, float]:
    """Of a recommendation, or of what it is compared with; measured ones too where one is to be
    trained."""
    said = grid.columns(answer) | (grid.measured(asked, origins, answer)[0] if verify else {})
    return {name: said[name] for name in advice.NUMBERS if name in said}


def _memory(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in MEMORY}


def _begun(
    named: Mapping[str, Any],
    settings: Mapping[str, Any],
    say: Callable[[str], None],
    methods: grid.Methods,
):
    """What is asked, after the tasks before; bases with their candidates; the seconds that has
    taken, and what all is expected to take."""
    _check(named, settings)
    meter, initialised = Meter(), experiment.initialise(**named)
    recipe = _recipe(initialised, named["training"], settings)
    factors = settings["rates"], settings["epochs"]
    groups = []
    for one in methods:
        candidates = grid.candidates(recipe, settings["shares"], *factors, (one,))
        base = grid.base_of(recipe, *factors, settings["base_share"])
        groups.append(_Group(base._replace(method=one[1]), candidates))
    grid.check_verify(settings["verify"], sum(len(group.candidates) for group in groups))
    *before, last = named["stream"]
    sizes = len(last.train.x), sum(len(task.train.x) for task in before)
    for group in groups:
        for asked_for in (group.base, *(one for _, one in group.candidates)):
            asked_for.checked(*sizes)
    asked = _asked(initialised.problem, initialised.theta)
    prices = [price(asked, group.base, **_memory(settings)) for group in groups]
    expected = grid.bill(prices, len(groups[0].candidates), settings["orders"])
    for line in grid.bill_lines(expected):
        say(line)
    theta = _trained(initialised.problem.at(recipe.learning_rate), initialised.theta)
    seconds = {"tasks_before": meter.read().seconds}
    return asked._replace(theta=theta), groups, seconds, expected


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
    return _finite(theta, problem.learning_rate, "training on the tasks before the last")


def _finite(theta: Params, learning_rate: float, what: str) -> Params:
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


def _named(base: Recipe) -> dict[str, Any]:
    return {key: getattr(base, key) for key in ("share", "learning_rate", "epochs", "batch_size")}


def _arrays(
    asked: Question,
    before: np.ndarray,
    stream: Stream,
    given: list[Answer],
    trained: Mapping[int, Answer],
) -> dict[str, np.ndarray]:
    """By candidate and old sample, and the samples at risk in the first candidate."""
    after = np.stack([answer.outputs.mean(0) for answer in given])
    rise = np.stack([answer.loss_change.mean(0) for answer in given])
    measured = {"after_measured": after * np.nan, "loss_change_measured": rise * np.nan}
    for place, one in trained.items():
        measured["after_measured"][place] = one.outputs[0]
        measured["loss_change_measured"][place] = one.loss_change[0]
    worst = given[0].at_risk[:AT_RISK]
    return measured | {
        "task": np.repeat(np.arange(len(stream) - 1), [len(task.test.x) for task in stream[:-1]]),
        "targets": np.asarray(asked.old.y),
        "head": np.asarray(asked.head),
        "before": before,
        "after": after,
        "loss_change": rise,
        "at_risk": worst,
        "at_risk_x": np.asarray(asked.old.x)[worst],
    }
