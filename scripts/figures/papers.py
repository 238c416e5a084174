"""The one table of what papers claim and what came out here, in results/README.md.

From the stored tables in results/tables: a row a claim, with the published number, ours, the
command, the machine and the time. Nothing is computed.

    python scripts/figures/papers.py [RESULTS]
"""

import argparse
import json
import re
from pathlib import Path

PAPERS = {
    "theory_checked": "the theory, checked",
    "jacot_fig1": "Jacot, Gabriel, Hongler 2018, Fig. 1",
    "jacot_fig2": "Jacot, Gabriel, Hongler 2018, Fig. 2",
    "jacot_fig3": "Jacot, Gabriel, Hongler 2018, Fig. 3",
    "lee_fig1": "Lee et al. 2019, Fig. 1",
    "lee_fig2": "Lee et al. 2019, Fig. 2",
    "lee_linearisation": "Lee et al. 2019",
    "hidekel_low_rank": "Hidekel, Raviv 2026",
    "hidekel_methods": "Hidekel, Raviv 2026, methods",
    "graldi_gamma0": "Graldi et al. 2025",
    "guha_width": "Guha, Lakshman 2024",
    "bennani_ogd": "Bennani et al. 2020, Farajtabar et al. 2020",
    "doan_overlap": "Doan et al. 2021",
    "karakida_curves": "Karakida, Akaho 2022",
    "li_hiratani_orders": "Li, Hiratani 2025",
    "steele_angles": "Steele 2026",
    "width_and_training": "Mirzadeh et al. 2022; Wenger et al. 2023",
    "kirkpatrick_fig2": "Kirkpatrick et al. 2017, Fig. 2",
    "reactivation": "Reactivation 2025",
}
BEGIN, END = "<!-- papers: made by scripts/figures/papers.py -->", "<!-- end of papers -->"


def table(root: Path) -> str:
    """Markdown: a row for each claim of each paper."""
    lines = [
        "| paper | claim | published | ours | verdict |",
        "|---|---|---|---|---|",
    ]
    for name, paper in PAPERS.items():
        stored = json.loads((root / "tables" / f"{name}.json").read_text())
        for number, claim in enumerate(stored["claims"]):
            cells = [paper_cell(name, paper, stored) if number == 0 else "", *claim_cells(claim)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paper_cell(name: str, paper: str, stored: dict) -> str:
    """The paper, the command, the machine, the time."""
    parts = [f"[{paper}](tables/{name}.md)", f"`python scripts/figures/{name}.py`"]
    if made := stored.get("made with"):
        on = "1 core" if made["cpus"] == 1 else f"{made['cpus']} cores"
        parts.append(f"{on}, {made['backend']}, JAX {made['jax']}")
    if seconds := stored.get("seconds"):
        parts.append(f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} s")
    return ", ".join(parts)


def claim_cells(claim: dict) -> list[str]:
    """The claim, the published number, ours, and whether it came out."""
    text, ours = claim["claim"], claim.get("ours", "")
    published = claim.get("published", "")
    if not ours and (printed := re.search(r" \(printed: (.*?)\)", text)):  # of earlier tables
        text, published = text.replace(printed[0], ""), printed[1]
    because = claim.get("because", "")
    differs = f"differs: {because}" if because else "differs"
    came_out = "reproduced" if published else "holds"
    cells = [text, published, ours, came_out if claim["holds"] else differs]
    return [cell.replace("|", "\\|") for cell in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    text = "folder of results (results)"
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"), help=text)
    readme = parser.parse_args().results / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    made = table(readme.parent)
    readme.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
