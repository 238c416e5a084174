"""A page that names what does not exist fails the build."""

import pytest
from cases import ROOT, load_script


@pytest.fixture(scope="module")
def script():
    return load_script("docs/names")


WRONG = {
    "a setting in a code span": ("`training.stepps`", "training.stepps"),
    "a setting that is given": ("`network.widht=64`", "network.widht"),
    "a setting in a command": ("```sh\nntkcl network.widht=64\n```", "network.widht"),
    "a setting within a command in a span": ("`ntkcl seed=1 sed=2`", "sed"),
    "a top-level setting": ("```sh\nntkcl -m sede=1,2 \\\n  size=small\n```", "sede"),
    "a setting of another command": ("```sh\nntkcl table network.width=3\n```", "network.width"),
    "a choice": ("`method=ewcc`", "method=ewcc"),
    "one of several choices": ("```sh\nntkcl -m method=ewc,err\n```", "method=err"),
    "a preset": ("`ntkcl experiment=wide`", "experiment=wide"),
    "a choice of a part": ("`method@method.parts.second=agemm`", "agemm"),
    "a setting of a part": ("`method.parts.first.penalti=0.3`", "penalti"),
    "a command": ("```sh\nntkcl tabel\n```", "tabel"),
    "a key of the summary": ("`metrics.average_acuracy`", "metrics.average_acuracy"),
    "a key of a forecast": ("`forecast.init.drift_r3`", "forecast.init.drift_r3"),
    "a Python name": ("`kernels.empiric(network)`", "kernels.empiric"),
    "a full Python name": ("`ntkcl.networks.mpl`", "ntkcl.networks.mpl"),
    "a field of a noun": ("`network.aply(theta, x)`", "network.aply"),
}


@pytest.mark.parametrize("text, name", WRONG.values(), ids=WRONG)
def test_a_name_that_does_not_exist_is_found(script, text, name):
    (problem,) = script.problems("docs/page.md", f"# Page\n\nLook at this:\n{text}\n")
    assert problem.startswith("docs/page.md: ") and name in problem


RIGHT = """# Page

`training.steps` and `training.steps=20`, `optimizer.settings={weight_decay: 1e-3}`,
`forecast.<anchor>.drift_r2`, `forecast.init`, `seconds.train`, `kernels.krylov.solve(matvec, y)`,
`ntkcl.types.Task`, `network.apply(theta, x)`, `method._replace(step=None)`, `summary.json`,
`stream.of.classes_per_task=2`, `plan.methods.ewc.penalty`, `method=NAME`,
`budget_mib=4`, `hydra.launcher.partition=gpu`, `jax.vmap`, `training.problem.Problem`.

```sh
PYTHONPATH=. ntkcl --config-dir=my_conf source=mine source.count=3   # a comment
ntkcl -m method=ewc,er hydra/launcher=joblib '~plan.methods.lwf' stream@stream.of=rotated
ntkcl table experiment_name=width 'where="`network.width` > 64"' by=[method]
ntkcl --cfg job
ntkcl help experiment
pip install ntkcl
```

```yaml
# my_conf/source/mine.yaml
_target_: my_package.mine
count: 2
```

<!-- test: skip, it shows an error -->
```sh
ntkcl netwrok.width=3
```
"""


def test_names_that_exist_pass(script):
    assert script.problems("page", RIGHT) == []


def test_every_problem_of_a_page_is_named_once(script):
    found = script.problems("page", "`method=a` `method=a`, `kernels.b` and\n`metrics.c`")
    assert [problem.split()[1] for problem in found] == ["method=a:", "kernels.b", "metrics.c"]


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_name_on_every_page_exists(script, path):
    assert script.problems(path.name, path.read_text()) == []
