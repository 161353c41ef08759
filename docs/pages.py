"""A hook of MkDocs: pages that are made when the website is built.

The documents of the repository's root, the reference of the package, and the history of the benchmarks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
FROM_THE_ROOT = {
    "index.md": "README.md",
    "index.ko.md": "README.ko.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    from mkdocs.structure.files import File  # here, so that the tests need no MkDocs

    for name, text in made().items():
        files.append(File.generated(config, name, content=text))
    return files


def made() -> dict[str, str]:
    """Every page that is not a file of docs/, by its name."""
    pages = {name: (ROOT / source).read_text(encoding="utf-8") for name, source in FROM_THE_ROOT.items()}
    pages["benchmarks.md"] = benchmarks(ROOT / "bench" / "history.jsonl")
    return pages | reference(ROOT / "ft_toolkit")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files that have no page lead to the repository."""
    source = PurePosixPath(FROM_THE_ROOT.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    shown = {f"docs/{file.src_uri}": file.src_uri for file in files} | {
        v: k for k, v in FROM_THE_ROOT.items()
    }

    def lead(match: re.Match[str]) -> str:
        target = (ROOT / source.parent / match[1]).resolve()
        inside = target.relative_to(ROOT).as_posix()
        if inside in shown:
            return f"]({shown[inside]}"
        return f"]({config['repo_url']}/blob/main/{inside}" if target.exists() else match[0]

    return LINK.sub(lead, markdown)


def reference(package: Path) -> dict[str, str]:
    """A page for each wing of the package, and one for the rooms beside them."""
    pages: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).with_suffix("")
        if room.name in ("__init__", "__main__"):
            continue
        wing = room.parent.name
        name = f"reference/{wing or 'index'}.md"
        title = f"# {package.name}.{wing}" if wing else f"# {package.name}"
        identifier = ".".join((package.name, *room.parts))
        pages[name] = pages.get(name, title + "\n") + f"\n::: {identifier}\n"
    return pages


def benchmarks(history: Path) -> str:
    """A plot and a table for each bench, a row a run, newest first."""
    lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
    runs = [json.loads(line) for line in reversed(lines)]
    text = "# Benchmarks\n\nWhat `make bench` measured: median seconds, and times ours in brackets.\n"
    for bench in dict.fromkeys(bench for run in runs for bench in run["results"]):
        some = [run for run in runs if bench in run["results"]]
        sides = list(dict.fromkeys(side for run in some for side in run["results"][bench]))
        text += f"\n## {bench}\n\n{plot(some[::-1], bench)}\n\n"
        text += f"| date | commit | processor | rounds, documents | {' | '.join(sides)} |\n"
        text += "| --- " * (4 + len(sides)) + "|\n"
        for run in some:
            cells = [
                run["date"],
                run["commit"] or "",
                run["cpu"],
                ", ".join(str(run[key]) for key in ("rounds", "documents") if run[key]),
            ]
            for side in sides:
                figure = run["results"][bench].get(side)
                cells.append(f"{figure['median_seconds']:.2f} ({figure['over_ours']:.2f})" if figure else "")
            text += f"| {' | '.join(cells)} |\n"
    return text


def plot(runs: Sequence[dict[str, Any]], bench: str) -> str:
    """An SVG of how many times our time each side took, a point a run, the oldest first."""
    width, height, right, foot = 640, 200, 130, 30
    sides = list(dict.fromkeys(side for run in runs for side in run["results"][bench]))
    times = {side: [run["results"][bench].get(side, {}).get("over_ours") for run in runs] for side in sides}
    top = 1.1 * max(value for values in times.values() for value in values if value is not None)

    def place(number: int, value: float) -> tuple[float, float]:
        x = 40 + (width - right - 40) * (number + 0.5) / len(runs)
        return round(x, 1), round((height - foot) * (1 - value / top), 1)

    label = '<text x="{}" y="{}" font-size="11" fill="currentColor">{}</text>'
    drawn = [label.format(4, 12, "times ours")]
    for number, run in enumerate(runs):
        drawn.append(label.format(place(number, 0)[0] - 28, height - 14, f"{run['date']}"))
        drawn.append(label.format(place(number, 0)[0] - 28, height - 2, run["commit"] or ""))
    ends = []
    for hue, side in enumerate(sides):
        points = [place(n, value) for n, value in enumerate(times[side]) if value is not None]
        colour = f"hsl({round(360 * hue / len(sides))} 60% 50%)"
        joined = " ".join(f"{x},{y}" for x, y in points)
        drawn.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>' for x, y in points]
        ends.append((points[-1], colour, f"{side} {times[side][len(runs) - 1] or 0:.2f}"))
    lowest = height - foot + 14.0
    for (x, y), colour, words in sorted(ends, key=lambda end: -end[0][1]):
        lowest = min(y + 4, lowest - 14)  # labels never cover each other
        drawn.append(label.format(x + 10, lowest, words).replace("currentColor", colour))
    return f'<svg viewBox="0 0 {width} {height}" style="max-width: 100%" role="img">{"".join(drawn)}</svg>'
