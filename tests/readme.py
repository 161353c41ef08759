"""Run the commands of README and docs in a fresh clone and compare the figures they show: make readme.

`python tests/readme.py --write` puts the lines that were printed in the place of those shown, where figures
alone are different. What a page says about them in its own words is left to its author.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# these first: the others use their runs
FIRST = [ROOT / name for name in ("README.md", "README.ko.md", "docs/verdict.md")]
PAGES = [*FIRST, *sorted(set((ROOT / "docs").glob("*.md")) - set(FIRST))]
CONSOLE = re.compile(r"```console\n(.*?)```", flags=re.S)
NUMBER = re.compile(r"[-−+]?\d+(?:\.\d+)?")
TOLERANCE = 0.05
CUT = "…"  # on a line of its own: lines were left out


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """(command, the output lines shown under it) for every `$ command` of a ```console block."""
    found: list[tuple[str, list[str]]] = []
    for block in CONSOLE.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def skeleton(line: str) -> str:
    """A line without its figures and spacing: what must be there whatever the figures are."""
    return re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip()


def faults(shown: list[str], printed: list[str]) -> list[str]:
    """Lines of a page, but for CUT, that were not printed, or with a figure more than TOLERANCE away."""
    by_skeleton: dict[str, list[str]] = {}
    for line in printed:
        by_skeleton.setdefault(skeleton(line), []).append(line)
    wrong = []
    for line in shown:
        if line.strip() in ("", CUT):
            continue
        candidates = by_skeleton.get(skeleton(line), [])
        if not any(close(line, candidate) for candidate in candidates):
            wrong.append(f"  page: {line}\n  now:  {candidates[0] if candidates else '(no such line)'}")
    return wrong


def rewritten(text: str, printed: dict[str, list[str]]) -> str:
    """A page with what was printed by each command in the place of the lines that it shows."""
    return CONSOLE.sub(lambda block: _rewritten(block[0], printed), text)


def _rewritten(block: str, printed: dict[str, list[str]]) -> str:
    lines = block.split("\n")
    left: dict[str, list[str]] = {}  # of the command's lines, those not yet shown, by their skeleton
    for number, line in enumerate(lines):
        if line.startswith("$ "):
            left = {}
            for one in printed.get(line[2:], []):
                left.setdefault(skeleton(one), []).append(one.rstrip())
        elif same := left.get(skeleton(line)):
            # of a table that is shown in part, the row that begins with the same figure
            row = next((one for one in same if NUMBER.findall(one)[:1] == NUMBER.findall(line)[:1]), same[0])
            same.remove(row)
            lines[number] = row
    return "\n".join(lines)


def close(line: str, other: str) -> bool:
    """Whether the figures of two lines agree; a change in per cent may move by half a point."""
    is_percent = "%" in line
    pairs = zip(NUMBER.findall(line), NUMBER.findall(other), strict=True)
    figures = [(float(a.replace("−", "-")), float(b.replace("−", "-"))) for a, b in pairs]
    return all(abs(a - b) <= max(TOLERANCE * abs(a), 0.5 if is_percent else 0.005) for a, b in figures)


def main() -> int:
    wrong = 0
    printed: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "ft_toolkit"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        # make installs ft there; pages may call it by its name
        path = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        # a command that several pages show runs once: two languages, and what a page shows in two parts
        commands: dict[str, list[str]] = {}
        for page in PAGES:
            for command, shown in blocks(page.read_text(encoding="utf-8")):
                commands.setdefault(command, []).extend(shown)
        for command, shown in commands.items():
            done = subprocess.run(
                command,
                shell=True,
                cwd=clone,
                capture_output=True,
                text=True,
                env=os.environ | {"PATH": path},
            )
            printed[command] = (done.stdout + done.stderr).splitlines()
            found = faults(shown, printed[command])
            if done.returncode:
                found.insert(0, f"  exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
            print(f"{'ok   ' if not found else 'WRONG'} {command}", *found, sep="\n", flush=True)
            wrong += bool(found)
    if "--write" in sys.argv:
        for page in PAGES:
            page.write_text(rewritten(page.read_text(encoding="utf-8"), printed), encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
