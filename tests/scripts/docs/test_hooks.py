"""What goes into the site: results, generated parts, and the end of a build that names nothing."""

import types

import pytest
from cases import ROOT, load_script
from mkdocs.exceptions import PluginError


@pytest.fixture
def hooks():
    return load_script("docs/hooks")


@pytest.fixture(scope="module")
def results():
    return load_script("docs/results_pages")


@pytest.mark.parametrize(
    "source, link, turned",
    [
        ("results/README.md", "figures/trust.png", "results/figures/trust.png"),
        ("results/README.md", "bench/kernels.md", "results/bench/kernels.md"),
        ("docs/index.md", "../results/README.md", "results.md"),
        ("docs/start/reading.md", "../../results/figures/leet.png", "../results/figures/leet.png"),
        ("docs/start/reading.md", "../../results/README.md#jacot", "../results.md#jacot"),
        ("docs/start/reading.md", "install.md", "install.md"),
        ("docs/start/reading.md", "https://arxiv.org/abs/1806.07572", None),
        ("docs/start/reading.md", "#there", None),
    ],
)
def test_links_into_results_lead_to_the_site(results, source, link, turned):
    assert results.turned(source, f"[text]({link})") == f"[text]({turned or link})"


def test_every_table_and_benchmark_has_a_page(results):
    pages = results.pages()
    assert pages["results.md"].startswith("# Results")
    assert {"results/bench/kernels.md", "results/tables/trust.md"} <= set(pages)
    assert len(pages) == 1 + len(list((ROOT / "results").glob("*/*.md")))


def page(place):
    file = types.SimpleNamespace(src_uri=place, generated_by=None)
    return types.SimpleNamespace(file=file, meta={})


def test_a_page_that_is_its_whole_section_has_no_navigation(hooks):
    for place, hidden in {"index.md": ["navigation"], "start/install.md": None}.items():
        one = page(place)
        hooks.on_page_markdown("", one, None, None)
        assert one.meta.get("hide") == hidden


def test_a_number_stays_on_one_line_with_its_spread(results):
    assert "0.8354\u00a0±\u00a00.0263" in results.pages()["results.md"]


def test_a_page_with_a_wrong_name_ends_the_build(hooks):
    hooks.on_page_markdown("`training.stepps`", page("start/first.md"), None, None)
    with pytest.raises(PluginError, match=r"docs/start/first.md: training.stepps is no setting"):
        hooks.on_env("env", None, None)


def test_a_build_without_wrong_names_goes_on(hooks):
    assert (
        hooks.on_page_markdown("`training.steps`", page("a.md"), None, None) == "`training.steps`"
    )
    assert hooks.on_env("env", None, None) == "env"


def test_marks_are_replaced_by_what_is_generated(hooks):
    text = "\n".join(f"<!-- generated: {name} -->" for name in ("summary", "methods", "metrics"))
    shown = hooks.on_page_markdown(text, page("a.md"), None, None)
    assert "<!-- generated" not in shown
    assert "| `metrics.average_accuracy` | average accuracy |  | mean\\_j R\\[T-1, j\\] |" in shown
    assert "| `seconds.<phase>` | time | s |" in shown
    assert "## ewc_diagonal\n" in shown and "| `method.damping` | `0.001` |" in shown
    assert "[`bwt_gem`](api/metrics.md#ntkcl.metrics.bwt_gem)" in shown
    with pytest.raises(KeyError, match="nothing"):
        hooks.on_page_markdown("<!-- generated: nothing -->", page("a.md"), None, None)


def test_every_method_is_on_its_page(hooks):
    from ntkcl import methods

    shown = hooks.run_pages.methods()
    assert all(f"## {name}\n" in shown for name in methods.__all__)


def test_every_key_of_the_summary_is_on_its_page(hooks):
    from ntkcl.runs import schema

    shown = hooks.run_pages.summary()
    for row in schema.QUANTITIES:
        key = row.key.removeprefix("forecast.<anchor>.").removeprefix("test.")
        plain = key.replace("_train", "").removeprefix("reference.<kind>.")
        assert f"| `{plain}` |" in shown, row.key


def test_without_the_extra_one_line_says_how_to_get_it(capsys, monkeypatch):
    build = load_script("docs/build")
    monkeypatch.setattr(build, "NEEDED", ("mkdocs", "no_such_package"))
    assert build.main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no_such_package" in said and "'.[docs]'" in said
