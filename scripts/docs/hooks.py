"""What MkDocs calls while it builds the site (`hooks:` in mkdocs.yml).

Pages are generated, marks in written pages are replaced, and every page is checked: a setting, a
key of `summary.json` or a Python name that does not exist ends the build.
"""

import api_pages
import conf_pages
import figure_pages
import names
import results_pages
import run_pages
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, InclusionLevel

PROBLEMS: list[str] = []
ALONE = (
    "index.md",
    results_pages.HOME,
    figure_pages.HOME,
)  # pages that are the only one of their section


def on_files(files, config):
    """The generated pages and the figures are files of the site."""
    made = api_pages, conf_pages, results_pages, figure_pages
    pages = {place: text for maker in made for place, text in maker.pages().items()}
    for place, content in pages.items():
        page = File.generated(config, place, content=content)
        if place.startswith("results/"):  # linked to, and not in the navigation
            page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    for path in results_pages.figures():
        place = path.relative_to(api_pages.ROOT).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path)))
    PROBLEMS.clear()
    PROBLEMS.extend(names.problems("README.md", (api_pages.ROOT / "README.md").read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    """A written page with what is generated in it, its names checked."""
    place = page.file.src_uri
    if place in ALONE:
        page.meta["hide"] = ["navigation"]
    if page.file.generated_by is not None:
        return markdown
    PROBLEMS.extend(names.problems(f"docs/{place}", markdown))
    return run_pages.filled(results_pages.turned(f"docs/{place}", markdown))


def on_env(env, config, files):
    """Ends the build where a name does not exist."""
    if PROBLEMS:
        raise PluginError("names that do not exist:\n" + "\n".join(PROBLEMS))
    return env
