"""What holds for every test: numbers, time and places.

Float64 is on and silent broadcasting across ranks is an error. Every run writes below a temporary
folder. Compiling is most of the suite's time: programs are compiled with few optimizations, and
what one test or process has compiled the others take from a cache.
"""

import gc
import itertools
import os
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
# Halves the seconds that XLA takes to compile for a CPU. XLA aborts for a flag that it does not
# know, so other versions than the one that these were tried with go without.
FAST_COMPILATION = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
FLAGS = FAST_COMPILATION if version("jaxlib").startswith("0.10.") else ()
os.environ |= {  # before JAX is imported, and for the processes that tests start
    "XLA_FLAGS": " ".join((*FLAGS, os.environ.get("XLA_FLAGS", ""))).strip(),
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of what is compiled: most of the suite is compiling
}

import jax  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402
from filelock import FileLock  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402

# JAX makes many objects that live long: looking through them as often as Python does by itself is a
# twentieth of the suite's time.
gc.set_threshold(100_000, 50, 100)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


# Memory mappings that compiled programs may take: Linux allows a process 65,530, and XLA dies of
# one more.
MAPPINGS = 35_000
TESTS = itertools.count(1)


@pytest.fixture(autouse=True)
def forgotten():
    """What tests have compiled, where a process holds much of it; the cache on disk still has
    it."""
    yield
    maps = Path("/proc/self/maps")
    if next(TESTS) % 10 == 0 and maps.exists() and len(maps.read_bytes().splitlines()) > MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The `data_dir` of Fashion-MNIST, prepared once for all processes: it takes ten seconds."""
    from ntkcl import sources

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tfds"
    settings = yaml.safe_load(
        (Path(__file__).parents[1] / "conf" / "source" / "fashion_mnist.yaml").read_text()
    )
    settings.pop("_target_")
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            sources.tfds_or_idx(**(settings | dict(data_dir=str(folder), download=False)))
    return folder


@pytest.fixture
def ntkcl(monkeypatch, capsys, tmp_path):
    """The command in this process, results in tmp_path/results.

    `ntkcl("seed=1") -> (exit code, stdout, stderr)`
    """
    from ntkcl.cli.command import main
    from ntkcl.cli.parts import _stream

    _stream.cache_clear()  # tests put other data behind the same configuration
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def command(*overrides):
        monkeypatch.setattr("sys.argv", ["ntkcl", *overrides])
        GlobalHydra.instance().clear()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def run_figure(monkeypatch, tmp_path):
    """A figure's script with overrides in this process, results in tmp_path.

    `run_figure(module, "draw=true") -> exit code, or the message that it stops with`
    """

    def command(script, *overrides):
        monkeypatch.setattr("sys.argv", ["script", *overrides, f"results_dir={tmp_path}"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        GlobalHydra.instance().clear()
        try:
            script.main()
            return 0
        except SystemExit as stop:
            return stop.code

    return command
