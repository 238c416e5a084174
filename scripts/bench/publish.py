"""The frame of the benchmarks in this folder: options, a record of the machine, files.

Standard library alone but where JAX is asked for, so that a process that only waits for others
does not load it.
"""

import argparse
import contextlib
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path("results/bench")
PLACES = ("folder", "side_python", "done")  # options that say where something lies


def parser(doc: str, quick: bool = False) -> argparse.ArgumentParser:
    """With --folder, and --quick if the benchmark has tiny sizes to try it with."""
    options = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if quick:
        options.add_argument("--quick", action="store_true", help="tiny sizes, to see it run")
    text = f"where to write ({FOLDER})"
    options.add_argument("--folder", type=Path, default=FOLDER, help=text)
    return options


def command(name: str, options: argparse.ArgumentParser, given: argparse.Namespace) -> str:
    """The command line as it is stored: options that differ from their defaults, paths left out."""
    words = ["python", f"scripts/bench/{name}.py"]
    for key, value in vars(given).items():
        if value != options.get_default(key) and key not in PLACES:
            shown = value.name if isinstance(value, Path) else str(value)
            words += [f"--{key.replace('_', '-')}"] + [shown] * (value is not True)
    return " ".join(words)


def stem(name: str, given: argparse.Namespace) -> str:
    """Of the files' names: tiny sizes and a single case have files of their own."""
    case = getattr(given, "case", None)
    return "_".join([name, *(["quick"] if given.quick else []), *([case] if case else [])])


def publish(folder: Path, name: str, stored: dict, markdown: Callable[[dict], str]) -> None:
    """`name`.json and `name`.md in the folder; the table is printed too."""
    write(folder, name, stored, markdown)
    print(markdown(stored))


def write(folder: Path, name: str, stored: dict, markdown: Callable[[dict], str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(stored, indent=1, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n")
    (folder / f"{name}.md").write_text(markdown(stored))


def as_json(stored: Any) -> Any:
    """What JSON can hold of it: null in the place of what is no finite number."""
    return json.loads(json.dumps(stored), parse_constant=lambda _: None)


def machine() -> dict:
    """Facts that a time depends on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
    memory = round(memory_available() / 2**30, 1)
    return dict(
        cpu=cpu,
        cores=os.cpu_count(),
        memory_available_gib=memory,
        system=platform.system(),
    )


def memory_available() -> int:
    """Bytes."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def with_jax() -> dict:
    """Facts that the time of one JAX process depends on."""
    import jax

    return dict(
        cores=os.cpu_count(),
        processor=platform.processor() or platform.machine(),
        device=jax.devices()[0].device_kind,
        python=platform.python_version(),
        jax=version("jax"),
    )
