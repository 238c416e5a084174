"""The house stands: arrows point down, one door for each outside library, no grab-bags."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ntkcl"
FLOORS = [
    {"types", "validation", "resources", "compilation"},
    {"losses", "metrics", "kernels", "dynamics", "streams", "sources"},
    {"networks", "optimizers", "methods"},
    {"training"},
    {"forecast"},
    {"experiment"},
    {"runs", "planning", "whatif"},
    {"reporting"},
    {"cli"},
    {"__main__"},
]
NEIGHBOURS: set[tuple[str, str]] = set()
DOORS = {
    "flax": {"networks"},
    "hydra": {"cli"},
    "omegaconf": {"cli", "runs"},
    "wandb": {"reporting"},
    "tensorflow_datasets": {"sources"},
    "sklearn": {"sources"},
    "tokenizers": {"sources"},
    "matplotlib": {"reporting"},
    "pandas": {"runs", "reporting", "sources"},
    "plotly": {"reporting"},
    "jinja2": {"reporting"},
    "wandb_workspaces": {"reporting"},
    "lineax": {"kernels"},
    "filelock": {"kernels", "runs"},
    "psutil": {"kernels", "runs"},
    "rich": {"reporting"},
    "orbax": {"runs"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path


def floor(room):
    return next(k for k, names in enumerate(FLOORS) if room in names)


def test_arrows_point_down_and_rooms_of_one_floor_do_not_know_each_other():
    for room, path in rooms():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "ntkcl" and parts[1] not in (room, "__version__"):
                other = parts[1]
                assert floor(other) < floor(room) or (room, other) in NEIGHBOURS, (
                    f"{path}: {room} imports {other}"
                )


def test_the_map_names_every_room():
    reported = (PACKAGE / "__init__.py").read_text()
    assert not [
        name for names in FLOORS for name in names if name not in reported.split('"""')[1].split()
    ]


def test_each_outside_library_has_its_door():
    for room, path in rooms():
        for name in imports(path):
            library = name.split(".")[0]
            assert room in DOORS.get(library, {room}), f"{path} imports {library}"


def test_no_private_jax_and_no_grab_bags():
    for _, path in rooms():
        assert not any(name.startswith("jax._src") for name in imports(path)), path
        assert path.stem not in {"utils", "common", "core", "helpers", "misc"}, path
