"""What an experiment_name stands for: one sweep, whose settings it keeps."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ntkcl.runs.status import entries
from ntkcl.validation import SettingError

UNNAMED = "main"  # the experiment_name of whoever gives none: it may mean anything


def register_sweep(
    results_dir: Path, name: str, values: Mapping[str, list], extend: bool, write: bool = True
) -> None:
    """Joins a sweep to those of its name; ValueError where a setting that no sweep of this name
    varies has another value in it. A name under which no run is complete is free."""
    if name == UNNAMED:
        return
    path, before = results_dir / "sweeps" / name / "sweep.json", {}
    if any(not Path(entry).name.startswith(".") for entry in entries(results_dir / "runs" / name)):
        with suppress(OSError, ValueError, RecursionError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            kept = kept if isinstance(kept, dict) else {}
            before = {key: value for key, value in kept.items() if isinstance(value, list)}
    for key in before.keys() & values.keys():
        if len(before[key]) == len(values[key]) == 1 and before[key] != values[key] and not extend:
            raise SettingError(
                f"experiment_name={name}: stands for a sweep with {key}={before[key][0]}, and this "
                f"one has {values[key][0]}; give it "
                f"another experiment_name, or sweep.extend=true to add to that one ({path})"
            )
    if not write:
        return
    joined = {
        key: before.get(key, []) + [v for v in values.get(key, []) if v not in before.get(key, [])]
        for key in {**before, **values}
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    fresh.write_text(json.dumps(joined, indent=1) + "\n")
    fresh.replace(path)
