"""The house stands: arrows point down, one door for each outside library, no grab-bags."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ntkcl"
FLOORS = [
    {"types", "settings", "meter", "machine", "reuse", "where", "stored"},
    {
        "losses",
        "metrics",
        "kernels",
        "forecast",
        "streams",
        "sources",
        "networks",
        "optimizers",
        "methods",
    },
    {"train", "events"},
    {"predict"},
    {"experiment"},
    {"record"},
    {"results", "figures", "planning", "checkpoints", "references", "claims"},
    {"console", "jobs", "identity", "panels", "tracking"},
    {"table"},
    {"configuration", "report", "dashboards"},
    {"sweeps"},
    {"plugins", "looks"},
    {"command"},
    {"__main__"},
]
NEIGHBOURS = {
    ("optimizers", "forecast"),  # a training rule carries its twin in kernel space
    ("methods", "forecast"),  # and so does a method
    ("methods", "losses"),  # distances between outputs
}
DOORS = {
    "flax": {"networks"},
    "hydra": {"command", "configuration", "sweeps", "plugins"},
    "omegaconf": {"command", "looks", "configuration", "identity", "sweeps"},
    "wandb": {"tracking"},
    "tensorflow_datasets": {"sources"},
    "sklearn": {"sources"},
    "matplotlib": {"figures"},
    "pandas": {"results", "table", "report", "tracking", "where", "stored"},
    "plotly": {"report"},
    "jinja2": {"report"},
    "wandb_workspaces": {"dashboards"},
    "matfree": {"kernels"},
    "lineax": {"kernels"},
    "filelock": {"kernels", "machine"},
    "psutil": {"kernels", "claims"},
    "rich": {"console"},
    "orbax": {"checkpoints"},
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
    told = (PACKAGE / "__init__.py").read_text()
    assert not [
        name for names in FLOORS for name in names if name not in told.split('"""')[1].split()
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
