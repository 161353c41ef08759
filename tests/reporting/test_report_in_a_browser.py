"""report.html in a real browser. Skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_toolkit.reporting.overview import write_overview
from ft_toolkit.run import Run

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install '.[browser]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SHOTS = os.environ.get("FT_SCREENSHOTS")  # a folder that keeps what was seen


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def opened(browser: Any, file: Path, width: int, scheme: str, **options: Any) -> tuple[Any, list[str]]:
    """A page, and everything that went wrong in it or was asked of another place."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
    page, faults = context.new_page(), []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith("file:") else faults.append(asked.url))
    page.goto(file.as_uri())
    return page, faults


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("hostile", 360, "light"),
        ("hostile", 1440, "dark"),
        ("secret", 360, "dark"),
        ("secret", 1440, "light"),
    ],
)
def test_it_opens_without_a_fault_fits_its_width_and_has_no_serious_barrier(
    browser: Any, reported: dict[str, Run], name: str, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    page, faults = opened(browser, reported[name].folder / "report.html", width, scheme, bypass_csp=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}-{width}-{scheme}.png", full_page=True)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    found = axe.Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    assert faults == [] and page.title().startswith(f"{name}: ")


def test_tokens_tell_their_probabilities_by_mouse_and_by_keyboard_and_filters_work(
    browser: Any, reported: dict[str, Run]
) -> None:
    page, faults = opened(browser, reported["hostile"].folder / "report.html", 360, "light")
    passage = page.locator(".text").first
    passage.scroll_into_view_if_needed()
    token = passage.locator("b[data-n]").nth(3)
    token.hover()
    said = page.locator("#readout").inner_text()
    base, tuned = map(float, token.get_attribute("data-n").split())
    assert "base " in said and " → tuned " in said and " %" in said
    assert ("as likely" in said) == (base - tuned >= 0.005) or "no change" in said
    page.mouse.move(0, 0)
    passage.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End"):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.tagName") == "B"
        assert " → tuned " in page.locator("#readout").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#readout").inner_text() == ""
    for name in ("up", "down", "rare"):
        page.locator(f"input[value={name}]").check()
        passage.focus()
        page.keyboard.press("Home")
        assert page.evaluate("document.activeElement.classList").get("0") is not None
        assert name in page.evaluate("[...document.activeElement.classList]")
    assert faults == []


def test_it_prints_with_everything_open(browser: Any, reported: dict[str, Run], tmp_path: Path) -> None:
    page, _ = opened(browser, reported["hostile"].folder / "report.html", 1440, "dark")
    page.pdf(path=tmp_path / "report.pdf")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_table_of_several_runs_sorts_by_mouse_and_by_keyboard(
    browser: Any, reported: dict[str, Run], tmp_path: Path
) -> None:
    out = write_overview(list(reported.values()), tmp_path / "index.html")
    page, faults = opened(browser, out, 360, "light")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    first = page.locator("table").first.locator("tbody tr th").first
    page.get_by_role("button", name="run", exact=True).click()
    assert first.inner_text() == "secret"  # descending first
    page.keyboard.press("Enter")
    assert first.inner_text() == "hostile"
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("run")
    assert faults == []
