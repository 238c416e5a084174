"""The parts that a configuration names by `_target_`: instantiated, and checked to be what their
group promises."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ntkcl import forecast, methods, optimizers
from ntkcl.training.settings import Training, check_training
from ntkcl.types import Dataset, Loss, Method, Network, Optimizer, Source, Stream, Task
from ntkcl.validation import SettingError, are_tokens, one_of

METHODS = tuple(methods.__all__)


class Nodes(NamedTuple):
    """The groups of a configuration that name functions, and what goes to them."""

    source: DictConfig
    stream: DictConfig
    network: DictConfig
    loss: DictConfig
    optimizer: DictConfig
    method: DictConfig
    kernel: DictConfig
    training: DictConfig
    forecast: DictConfig
    precision: str
    seed: int


def nodes(cfg: DictConfig) -> Nodes:
    """Of a configuration."""
    return Nodes(*(cfg[key] for key in Nodes._fields))


def without_data(given: Nodes) -> dict[str, Any]:
    """The arguments of `experiment.run` and `experiment.initialise` for which no data are needed,
    the network still without its outputs."""
    return dict(
        network=_to_call("network", given.network),
        loss=_made("loss", given.loss, instantiate(given.loss), Loss),
        optimizer=_made("optimizer", given.optimizer, instantiate(given.optimizer), Optimizer),
        training=_training(given.training),
        method=_made("method", given.method, instantiate(given.method), Method),
        effort=forecast.Effort(*(given.forecast[key] for key in forecast.Effort._fields)),
        kernel=_to_call("kernel", given.kernel),
    )


def build(given: Nodes) -> dict[str, Any]:
    """The arguments of `experiment.run` and `experiment.initialise`, by their names."""
    texts = (OmegaConf.to_yaml(node, resolve=True) for node in (given.source, given.stream))
    stream = _stream(*texts, given.precision)
    named = without_data(given)
    made = _called("network", given.network, named["network"], stream[0].train.y.shape[1])
    network = _made("network", given.network, made, Network)
    if not callable(named["kernel"](network)):
        raise SettingError(
            f"{_named('kernel', given.kernel)} returned no function of (theta, x1, x2) for a "
            "network; see ntkcl.kernels"
        )
    return dict(key=jax.random.key(given.seed), stream=stream) | named | dict(network=network)


def method(name: str, settings: Mapping[str, Any]) -> Method:
    """One of `ntkcl.methods` by its name."""
    return instantiate({"_target_": f"ntkcl.methods.{name}", **settings})


def grid_of(setting: str, grid) -> Iterator[tuple[dict, Method]]:
    """Every cell of a grid {method: {setting: value or list of values}}: coordinates, method."""
    if not isinstance(grid, dict) or not grid:
        raise SettingError(f"{setting}={grid}: expected methods and settings, such as {{l2: {{}}}}")
    for name, values in grid.items():
        one_of(setting, name, METHODS)
        if not isinstance(values, dict | None):
            raise SettingError(
                f"{setting}.{name}={values}: expected settings and their values, such as "
                "{penalty: [0.1, 1.0]}, or {}"
            )
        lists = {
            key: value if isinstance(value, list) else [value]
            for key, value in (values or {}).items()
        }
        for key, several in lists.items():
            if key.startswith("_"):
                raise SettingError(f"{setting}.{name}.{key}: expected a setting of {name}")
            if not several:
                raise SettingError(f"{setting}.{name}.{key}=[]: expected at least one value")
        for combination in itertools.product(*lists.values()):
            chosen = dict(zip(lists, combination, strict=True))
            yield {"method": name, **chosen}, method(name, chosen)


@lru_cache(maxsize=1)  # runs of a sweep that differ in other things come one after the other
def _stream(source: str, stream: str, precision: str) -> Stream:
    source_node, stream_node = OmegaConf.create(source), OmegaConf.create(stream)
    make = _to_call("stream", stream_node)
    images = _made("source", source_node, instantiate(source_node), Source)
    tasks = _checked_stream(stream_node, make(images))
    return tuple(_in(precision, task) for task in tasks)


def _in(precision: str, task: Task) -> Task:
    """A task in a floating type, token ids as they are."""

    def real(array):
        return jnp.asarray(np.asarray(array, precision))

    def part(data: Dataset) -> Dataset:
        x = np.asarray(data.x)
        return Dataset(jnp.asarray(x) if are_tokens(x) else real(x), real(data.y))

    return Task(part(task.train), part(task.test), real(task.head))


def _training(node: DictConfig) -> Training:
    named = dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]
    schedule = named.pop("schedule", None)
    factors = None if schedule is None else optimizers.schedule(**schedule)
    training = Training(**named, schedule=factors)
    check_training(training)
    return training


def _made(group: str, node, what: Any, kind: type) -> Any:
    """What a group's function has returned; SettingError, naming it, for anything but a `kind`."""
    if isinstance(what, kind):
        return what
    raise SettingError(
        f"{_named(group, node)} returned {_short(what)}; expected an ntkcl.types.{kind.__name__}"
    )


def _to_call(group: str, node) -> Callable[..., Any]:
    """The function of a group that is called later, with what is not known yet."""
    what = instantiate(node)
    if callable(what):
        return what
    raise SettingError(
        f"{_named(group, node)} returned {_short(what)}; expected {group}._partial_=true, so that "
        "it is called later"
    )


def _checked_stream(node, what: Any) -> Stream:
    """A tuple or list of tasks, at least one, as a tuple."""
    if not isinstance(what, tuple | list) or isinstance(what, Task) or not what:
        raise SettingError(
            f"{_named('stream', node)} returned {_short(what)}; expected a tuple of "
            "ntkcl.types.Task, at least one"
        )
    for t, task in enumerate(what):
        if not isinstance(task, Task):
            raise SettingError(
                f"{_named('stream', node)} returned as task {t} a {_short(task)}; expected an "
                "ntkcl.types.Task"
            )
    return tuple(what)


def _called(group: str, node, function: Callable[..., Any], outputs: int) -> Any:
    """The function called; SettingError for a setting that it does not have."""
    try:
        return function(outputs=outputs)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in node:
            raise
        name = unknown[1]
        raise SettingError(
            f"{group}.{name}={node[name]}: {node['_target_']} has no such setting; a preset may "
            f"have set it for another {group}: ~{group}.{name} takes it away"
        ) from error


def _named(group: str, node) -> str:
    has_target = OmegaConf.is_dict(node) and "_target_" in node
    return f"{group}._target_={node['_target_']}" if has_target else group


def _short(what: Any) -> str:
    """What came, in a few words of one line."""
    lines = repr(what).splitlines() or [""]
    more = " ..." if len(lines) > 1 or len(lines[0]) > 60 else ""
    return f"{type(what).__name__}: {lines[0][:60]}{more}"
