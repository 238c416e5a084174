"""The site, from docs/, conf/, results/ and the docstrings, into site/; any warning is an error.

python scripts/docs/build.py            builds it
python scripts/docs/build.py serve      shows it at a local address, and anew after each change
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("mkdocs", "material", "mkdocstrings")


def missing() -> list[str]:
    """Packages of the extra `docs` that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def main(arguments: list[str]) -> int:
    """The exit code of MkDocs, or 2 where it is not installed."""
    if lacking := missing():
        print(
            f"docs: {', '.join(lacking)} not installed; pip install -e '.[docs]' brings them "
            "(`make docs` does it)",
            file=sys.stderr,
        )
        return 2
    command = [sys.executable, "-m", "mkdocs", *(arguments or ["build"]), "--strict"]
    quiet = {"NO_MKDOCS_2_WARNING": "1"}  # Material's notice of its successor
    return subprocess.call(command, cwd=ROOT, env=os.environ | quiet)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
