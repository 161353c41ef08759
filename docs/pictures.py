"""The pictures of README.md and docs/learn.md, from the report of a finished run.

python docs/pictures.py runs/quickstart  # writes docs/pictures/*.png; needs the extra `browser` and Chromium
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).resolve().parent / "pictures"
WIDTH_PX, MARGIN_PX, COLOURS = 1000, 12, 128
POINTED_AT = "water"  # in the first passage, so that the map shows its probabilities


def save(screenshot: Path) -> None:
    """A palette of few colours: a third of the size, and no difference to be seen."""
    picture = Image.open(screenshot).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(screenshot, optimize=True)


def main() -> None:
    """Learning curve beside the documents, and the token map down to the end of its first passage."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("run", type=Path)
    report = asked.parse_args().run.resolve() / "report.html"
    curve, token_map = PICTURES / "learning-curve.png", PICTURES / "token-map.png"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH_PX, "height": WIDTH_PX}, color_scheme="light")
        page.goto(report.as_uri())
        page.add_style_tag(content=f"#training .pair {{ padding: {MARGIN_PX}px }}")
        page.locator("#training .pair").screenshot(path=curve)
        page.evaluate("document.querySelector('#map').scrollIntoView()")
        passage = page.locator(".passage").first
        passage.locator(".text b", has_text=POINTED_AT).first.hover()
        top, end = page.locator("#map").bounding_box(), passage.bounding_box()
        assert top is not None and end is not None
        page.screenshot(
            path=token_map,
            clip={
                "x": top["x"] - MARGIN_PX,
                "y": top["y"],
                "width": top["width"] + 2 * MARGIN_PX,
                "height": end["y"] + end["height"] + MARGIN_PX - top["y"],
            },
        )
    save(curve)
    save(token_map)


if __name__ == "__main__":
    main()
