"""What a `_target_` of one's own may return: anything else is named, with the setting that it came
from."""

import hydra
import pytest
from flax import linen as nn

from ntkcl import networks
from ntkcl.cli import config, parts, work
from ntkcl.types import Dataset, Task

HERE = "test_targets"


def returns(value):
    return lambda *given, **settings: value


nothing, number, several = returns(None), returns(3), returns("one\ntwo")
one_task = returns(Task(Dataset(0, 0), Dataset(0, 0), 0))
other_tasks, no_tasks = returns((3,)), returns(())
makes_number = returns(number)


def build(*overrides):
    with hydra.initialize_config_dir(config.CONF, version_base="1.3"):
        cfg = hydra.compose("config", overrides=list(overrides))
    parts._stream.cache_clear()
    return parts.build(parts.nodes(cfg))


@pytest.mark.parametrize(
    ("group", "target", "partial", "message"),
    [
        ("source", "number", False, "returned int: 3; expected an ntkcl.types.Source"),
        ("loss", "nothing", False, "returned NoneType: None; expected an ntkcl.types.Loss"),
        (
            "optimizer",
            "several",
            False,
            "returned str: 'one\\ntwo'; expected an ntkcl.types.Optimizer",
        ),
        ("method", "number", False, "returned int: 3; expected an ntkcl.types.Method"),
        ("network", "number", True, "returned int: 3; expected an ntkcl.types.Network"),
        ("network", "number", False, "returned int: 3; expected network._partial_=true"),
        ("kernel", "number", False, "returned int: 3; expected kernel._partial_=true"),
        ("kernel", "number", True, "returned no function of (theta, x1, x2)"),
        ("stream", "number", True, "returned int: 3; expected a tuple of ntkcl.types.Task"),
        ("stream", "one_task", True, "returned Task: Task(train="),
        ("stream", "no_tasks", True, "returned tuple: (); expected a tuple of ntkcl.types.Task"),
        (
            "stream",
            "other_tasks",
            True,
            "returned as task 0 a int: 3; expected an ntkcl.types.Task",
        ),
        ("stream", "number", False, "returned int: 3; expected stream._partial_=true"),
    ],
)
def test_what_is_of_another_kind_is_named(group, target, partial, message):
    node = f"{{_target_: {HERE}.{target}, _partial_: {str(partial).lower()}}}"
    with pytest.raises(ValueError) as reported:
        build(f"~{group}", f"+{group}={node}")
    assert str(reported.value).startswith(f"{group}._target_={HERE}.{target} {message}")
    assert "\n" not in str(reported.value)


def own_network(*, outputs):
    return networks.network(nn.Dense(outputs))


def test_seeds_that_are_trained_as_one_share_a_network_of_ones_own():
    node = f"+network={{_target_: {HERE}.own_network, _partial_: true}}"
    settings = "~network", node, "seeds=[0,1]", "source.seed=${seed}"
    with hydra.initialize_config_dir(config.CONF, version_base="1.3"):
        (batch,) = config.resolve(hydra.compose("config", overrides=list(settings))).batches
    made = [work.build(one) for one in batch]
    first, second = (one.parts for one in work.sharing(made))
    assert first["network"].apply is second["network"].apply
    assert made[1].parts["network"].apply is not second["network"].apply
    assert second["key"] is made[1].parts["key"] and second["stream"] is made[1].parts["stream"]


def test_a_list_of_tasks_is_a_stream():
    task = one_task()
    assert parts._checked_stream(None, [task, task]) == (task, task)
