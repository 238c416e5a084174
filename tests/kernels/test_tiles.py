"""Blocks in tiles: any budget, any number of devices and processes, and a store that survives
kills, cuts and strangers."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl import kernels, networks
from ntkcl.kernels import store as stores
from ntkcl.kernels import tile_sizes, tiles

SCRIPT = Path(__file__).parent / "many_devices.py"


def problem(n1=37, n2=23, width=16):
    network = networks.mlp(outputs=3, width=width, depth=2, activation="tanh", b_std=0.1)
    x, y = (np.asarray(jax.random.normal(jax.random.key(k), (n, 6))) for k, n in ((1, n1), (2, n2)))
    return network, network.init(jax.random.key(0), x[0]), x, y


def whole():
    network, theta, x, y = problem()
    kernel_fn = kernels.structured(network)
    return np.asarray(kernel_fn(theta, x, y)), np.asarray(kernel_fn(theta, x))


@pytest.mark.parametrize("kind", [kernels.structured, kernels.contraction, kernels.vector_products])
@pytest.mark.parametrize("budget_mib", [100.0, 0.3, 0.1])
def test_tiles_give_the_whole_whatever_the_budget(kind, budget_mib):
    network, theta, x, y = problem()
    counted = []
    kernel_fn = kernels.tiled(
        kind(network),
        budget_mib=budget_mib,
        progress=lambda todo: counted.append(len(todo)) or todo,
    )
    xy, xx = whole()
    np.testing.assert_allclose(kernel_fn(theta, x, y), xy, atol=1e-10)
    np.testing.assert_allclose(kernel_fn(theta, x), xx, atol=1e-10)
    np.testing.assert_allclose(kernel_fn(theta, x[:1], y[:2]), xy[:1, :, :2], atol=1e-10)
    assert counted[0] == 1 if budget_mib == 100.0 else budget_mib == 0.3 or counted[0] > 1


def test_one_tile_that_holds_a_symmetric_block_is_measured_and_has_no_other_program():
    network, theta, x, _ = problem()
    tile = tiles.fit(kernels.structured(network), theta, x, None, 100.0, jax.devices()[:1])
    c = len(network.apply(theta, x[0]))
    assert tile.rows == len(x) and tile.gram is None
    assert tile.mib > 2 * (len(x) * c) ** 2 * x.dtype.itemsize / 2**20


def test_a_symmetric_block_takes_half_the_tiles_and_a_repeated_shape_compiles_nothing(
    monkeypatch,
):
    network, theta, x, _ = problem()
    counted, compiled = [], []
    fit = tiles.fit
    monkeypatch.setattr(tiles, "fit", lambda *a: compiled.append(fit(*a)) or compiled[-1])
    kernel_fn = kernels.tiled(
        kernels.structured(network),
        budget_mib=0.2,
        progress=lambda todo: counted.append(len(todo)) or todo,
    )
    kernel_fn(theta, x)
    kernel_fn(theta, x + 1)
    (tile,) = compiled
    side = -(-len(x) // tile.rows)
    assert side > 1 and counted == [side * (side + 1) // 2] * 2
    assert tile.mib <= 0.2


def test_two_sides_of_one_size_and_one_side_do_not_share_their_program():
    network, theta, x, _ = problem()
    kernel_fn = kernels.tiled(kernels.structured(network))
    np.testing.assert_allclose(kernel_fn(theta, x, x), whole()[1], atol=1e-10)
    np.testing.assert_allclose(kernel_fn(theta, x), whole()[1], atol=1e-10)


def test_the_search_for_a_tile_ends_with_any_number_of_devices(monkeypatch):
    """Eight devices round lengths up: a tile of 16 that is too large must not be followed by
    another of 16."""
    tried = []

    def compiled(kernel, theta, x, rows, columns, symmetric, devices):
        tried.append(rows)
        return tile_sizes.Tile(rows, columns, None, None, None, None, float(rows))

    monkeypatch.setattr(tile_sizes, "_compile", compiled)
    monkeypatch.setattr(tile_sizes, "guess_edge", lambda *a: 16.0)
    network, theta, x, _ = problem(n1=1000)
    with pytest.raises(ValueError, match="one structured tile of 8 x 8 samples takes 8 MiB"):
        tile_sizes.fit(kernels.structured(network), theta, x, None, 7.9, [None] * 8)
    assert tried == [16, 8]


def test_a_budget_below_one_tile_is_refused_with_the_numbers():
    network, theta, x, _ = problem(width=64)
    with pytest.raises(
        ValueError,
        match=(
            r"kernel.budget_mib=0.01: one contraction tile of 1 x 1 samples takes .* MiB; "
            r"expected at least \d+, or"
        ),
    ):
        kernels.tiled(kernels.contraction(network), budget_mib=0.01)(theta, x)
    for bad in (0.0, -1, float("nan")):
        with pytest.raises(
            ValueError, match=r"kernel.budget_mib=.*: expected a finite number above 0"
        ):
            kernels.tiled(kernels.contraction(network), budget_mib=bad)


# --- store ---


def stored(folder, todo=None, kind=kernels.structured, **settings):
    """The kernel function of the problem over a store, noting how many tiles each call had to
    compute."""
    progress = None if todo is None else lambda tiles: todo.append(len(tiles)) or tiles
    return kernels.tiled(
        kind(problem()[0]), **(dict(budget_mib=0.2) | settings), store=folder, progress=progress
    )


def test_a_repeated_computation_costs_nothing_in_this_process_or_with_other_tiles(tmp_path):
    _, theta, x, y = problem()
    todo: list[int] = []
    for again in (
        stored(tmp_path, todo),
        stored(tmp_path, todo),
        stored(tmp_path, todo, budget_mib=0.5),
    ):
        for block, expected in zip((again(theta, x, y), again(theta, x)), whole(), strict=True):
            assert isinstance(block, np.memmap)
            np.testing.assert_allclose(block, expected, atol=1e-10)
    assert todo[0] > 1 and todo[1] > 1 and todo[2:] == [0, 0, 0, 0]
    assert np.load(next(tmp_path.glob("*.npy"))).shape[1::2] == (
        3,
        3,
    )  # an array file like any other


@pytest.mark.parametrize(
    "change", ["theta", "x", "model", "implementation", "constant", "sides", "type"]
)
def test_whatever_makes_another_kernel_has_another_key(change):
    network, theta, x, y = problem()
    shift = np.zeros((300, 300))  # a constant inside the model, too large to print
    other = shift.copy()
    other[150, 150] = 1e-9

    def shifted(constant):
        return kernels.contraction(
            lambda theta, x: (
                network.apply(theta, x)
                + jnp.sin(constant * x[0]).sum() * theta["readout"]["kernel"][0]
            )
        )

    keys = {
        "theta": lambda: stores.key(
            kernels.structured(network), jax.tree.map(lambda a: a.at[0].add(1e-12), theta), x, y
        ),
        "x": lambda: stores.key(kernels.structured(network), theta, x + 1e-12, y),
        "model": lambda: stores.key(
            kernels.structured(networks.mlp(outputs=3, width=16, depth=2, b_std=0.1)), theta, x, y
        ),
        "implementation": lambda: stores.key(kernels.contraction(network), theta, x, y),
        "sides": lambda: stores.key(kernels.structured(network), theta, x),
        "type": lambda: stores.key(
            kernels.structured(network), jax.tree.map(np.float32, theta), x, y
        ),
    }
    reference = stores.key(kernels.structured(network), theta, x, y)
    assert reference == stores.key(kernels.structured(problem()[0]), *problem()[1:])
    if change == "constant":
        assert stores.key(shifted(shift), theta, x, y) != stores.key(shifted(other), theta, x, y)
    else:
        assert keys[change]() != reference


def _cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def _flip(path):
    block = np.lib.format.open_memmap(path, mode="r+")
    block[-1, 0, -1, 0] += 1.0
    block.flush()


def _append(path, lines):
    path.write_text(path.read_text() + lines)


DAMAGE = {
    "an entry changed": _flip,
    "cut short": _cut,
    "another file": lambda path: path.write_text("not ours"),
    "header damaged": lambda path: path.write_bytes(path.read_bytes().replace(b", }", b", )")),
    "another array": lambda path: np.save(path, np.zeros(3)),
    "gone": lambda path: path.unlink(),
    "journal of another": lambda path: path.with_suffix(".journal").write_text('{"a": 1}\n[1]\n'),
    "journal not text": lambda path: path.with_suffix(".journal").write_bytes(b"\xff\xfe\x00"),
    "journal's lines not ours": lambda path: _append(
        path.with_suffix(".journal"), '"abcde"\n[1, 2, 3]\n{"a": 1}\n[0.5, 1, 0, 1, 3]\n'
    ),
    "journal cut": lambda path: path.with_suffix(".journal").write_text(
        path.with_suffix(".journal").read_text()[:-9]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_noticed_and_remade(damage, tmp_path):
    _, theta, x, y = problem()
    todo: list[int] = []
    kernel_fn = stored(tmp_path, todo)
    kernel_fn(theta, x, y)
    DAMAGE[damage](next(tmp_path.glob("*.npy")))
    np.testing.assert_allclose(kernel_fn(theta, x, y), whole()[0], atol=1e-10)
    if damage == "journal's lines not ours":
        assert todo[1] == 0
        return
    few = damage in ("an entry changed", "journal cut")
    assert todo[1] == 1 if few else todo[1] == todo[0]


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
import jax
jax.config.update("jax_enable_x64", True)
from test_tiles import problem, stored
_, theta, x, y = problem()
def slowly(tiles):
    for k, tile in enumerate(tiles):
        yield tile
        print(k + 1, len(tiles), flush=True)
        time.sleep(0.2)
from ntkcl import kernels
settings = dict(budget_mib=0.2, store={folder!r}, progress=slowly)
kernels.tiled(kernels.structured(problem()[0]), **settings)(theta, x, y)
"""


@pytest.mark.slow
def test_a_killed_computation_goes_on_where_it_was(tmp_path):
    """SIGKILL after the second tile; what is left to do is the rest, and the lock died with its
    process."""
    _, theta, x, y = problem()
    script = SLOW.format(tests=str(SCRIPT.parent), folder=str(tmp_path))
    worker = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=_environment()
    )
    for line in worker.stdout:
        done, total = map(int, line.split())
        if done == 2:
            break
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    todo: list[int] = []
    block = stored(tmp_path, todo)(theta, x, y)
    assert total > 3 and 0 < todo[0] <= total - 2
    np.testing.assert_allclose(block, whole()[0], atol=1e-10)


def test_bfloat16_cannot_be_kept_but_may_be_looked_up(tmp_path):
    _, theta, x, y = problem(n1=3, n2=2)
    coarse = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), (theta, x, y))
    with pytest.raises(ValueError, match="blocks of bfloat16 cannot be kept"):
        stored(tmp_path)(*coarse)
    assert stores.key(kernels.structured(problem()[0]), theta, *coarse[1:]) != stores.key(
        kernels.structured(problem()[0]), *coarse
    )


def test_what_tiles_cannot_take_is_told_in_one_line():
    network, theta, x, _ = problem(n1=3, n2=2)
    kernel = kernels.structured(network)
    for devices in ([], "cpu", jax.devices() * 2, 2):
        with pytest.raises(ValueError, match=r"devices=.*: expected some of jax.devices"):
            kernels.tiled(kernel, devices=devices)
    with pytest.raises(ValueError, match=r"tiled.Network.; expected a kernel"):
        kernels.tiled(network)
    with pytest.raises(ValueError, match=r"tiles are not for jax.jit"):
        jax.jit(kernels.tiled(kernel))(theta, x)
    with pytest.raises(
        ValueError, match=r"kernel.budget_mib=1000.*: expected a finite number above 0"
    ):
        kernels.tiled(kernel, budget_mib=10**400)


def test_an_absurd_budget_is_one_tile_and_another_structure_of_parameters_another_program():
    kernel_fn = kernels.tiled(
        kernels.contraction(lambda theta, x: sum(jax.tree.leaves(theta)) * x), budget_mib=1e308
    )
    theta, x = jnp.ones(2), jnp.ones((3, 2))
    np.testing.assert_array_equal(
        kernel_fn({"a": theta, "b": theta}, x), kernel_fn([theta, theta], x)
    )


def test_a_store_that_cannot_be_written_is_refused(tmp_path):
    _, theta, x, y = problem()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        with pytest.raises(
            ValueError,
            match=r"kernel store=.*: cannot be written .*; expected a folder of your own",
        ):
            stored(folder)(theta, x, y)


def test_a_store_without_room_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    _, theta, x, y = problem()
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(
        ValueError, match=r"the block needs 0 MiB and 0 MiB are free; use another folder"
    ):
        stored(tmp_path)(theta, x, y)


# --- many devices, many processes ---


def _environment(**extra):
    return (
        {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"} | extra
    )


def _run(*arguments, **extra):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=_environment(**extra),
        stderr=subprocess.PIPE,
    )


def _finished(*workers):
    deadline = time.monotonic() + 240
    try:
        for worker in workers:
            _, reported = worker.communicate(timeout=max(1.0, deadline - time.monotonic()))
            assert worker.returncode == 0, reported.decode()[-2000:]
    finally:
        for worker in workers:  # where one failed the other waits for it
            worker.kill()
            worker.communicate()


def _same_as_one_device(path, devices, processes):
    found = np.load(path)
    assert (int(found["devices"]), int(found["processes"])) == (devices, processes)
    for name, expected in zip(("xy", "xx"), whole(), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-12)


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(tmp_path):
    _finished(_run(tmp_path / "k.npz", XLA_FLAGS="--xla_force_host_platform_device_count=8"))
    _same_as_one_device(tmp_path / "k.npz", devices=8, processes=1)


@pytest.mark.slow
def test_two_processes_joined_by_the_runtime_give_the_numbers_of_one_and_share_a_store(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    _finished(*(_run(tmp_path / f"k{rank}.npz", rank, port, tmp_path / "store") for rank in (0, 1)))
    for rank in (0, 1):
        _same_as_one_device(tmp_path / f"k{rank}.npz", devices=2, processes=2)
    assert len(list((tmp_path / "store").glob("*.npy"))) == 2
