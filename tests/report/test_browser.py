"""The report in a real browser: Debian's Chromium through Playwright, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaling.report.build import build_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, write_study: Any) -> Path:
    return build_report(write_study(tmp_path_factory.mktemp("browser") / "study", seeds=2))


def opened(browser: Any, index: Path, width: int, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """The page, what it said on its console, and what it asked of a network."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page = context.new_page()
    said, asked = list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(index.as_uri())
    return page, said, asked


def test_the_page_shows_its_figures_sorts_and_is_usable_by_keyboard(browser: Any, index: Path) -> None:
    page, said, asked = opened(browser, index, 1200)
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0 && image.alt.length > 10)")
    assert page.evaluate("document.images.length") == 13
    answer = page.get_by_role("list", name="The answer")
    assert answer.bounding_box()["y"] < 400
    assert answer.get_by_role("listitem").count() == 3
    table = page.get_by_role("table").filter(has=page.get_by_role("columnheader", name="Ratio to own teacher")).first
    heading = table.get_by_role("button", name="MACs")
    heading.focus()
    page.keyboard.press("Enter")
    column = "table => [...table.tBodies[0].rows].map(row => row.cells[4].textContent)"
    shown = table.evaluate(column)
    assert [each.split()[0] for each in shown[:5]] == ["310"] * 5
    assert table.get_by_role("columnheader", name="MACs").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert table.evaluate(column)[0].startswith("4.6")
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_telephone_and_the_dark_show_all_of_it(browser: Any, index: Path) -> None:
    page, said, _ = opened(browser, index, 375, "dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    clipped = (
        "[...document.querySelectorAll('table.stacked td')].filter(cell => cell.getBoundingClientRect().right > 376)"
    )
    assert page.evaluate(f"{clipped}.length") == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 21)"
    labels = "getComputedStyle(document.querySelector('table.stacked td'), '::before').content"
    assert page.evaluate(labels) not in ("none", "normal")
    assert len(page.pdf()) > 10_000  # it prints
    assert said == []
