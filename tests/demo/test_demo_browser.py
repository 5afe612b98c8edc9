"""The demo in a real browser: Debian's Chromium through Playwright."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser
Served = Any  # conftest.py says what it is


def test_a_page_draws_compares_and_asks_this_machine_alone(browser: Any, served: Served) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 800}, color_scheme="dark")
    page, said, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.server.address)
    status = page.get_by_role("status")
    status.get_by_text("seeds 0 to 7").wait_for()
    images = page.get_by_role("img")
    assert images.count() == 3
    assert page.evaluate("[...document.images].every(image => image.naturalWidth === 8 * 16)")
    one_step = images.first.get_attribute("src")
    assert "1 step, 1 evaluation," in page.get_by_role("region", name="sCT xs").inner_text()
    page.get_by_label("Steps of students").select_option("2")
    page.get_by_text("2 steps, 2 evaluations").first.wait_for()
    assert images.first.get_attribute("src") != one_step
    page.get_by_label("Class").select_option("3")
    page.get_by_role("img", name="8 samples of sCT xs, classes 3, 3").wait_for()
    page.get_by_role("button", name="Next seeds").click()
    status.get_by_text("seeds 8 to 15").wait_for()
    page.get_by_label("Guidance").fill("3")
    page.get_by_label("Guidance").press("Enter")
    page.get_by_text("distilled without guidance").wait_for()
    assert images.count() == 1  # the guided student: neither the other nor the teacher takes one
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert said == []
    assert {url.removeprefix(served.server.address) for url in asked if not url.startswith("data:")} == {"", "sample"}


def test_another_site_cannot_ask(browser: Any, served: Served) -> None:
    """A page of another origin in the same browser, with every kind of request that needs no leave."""
    page = browser.new_context().new_page()
    page.route("http://evil.example/**", lambda route: route.fulfill(body="<p>evil", content_type="text/html"))
    page.goto("http://evil.example/")
    drawn = list[Any]()
    held, served.server.answer = served.server.answer, lambda asked: drawn.append(asked) or {"rows": []}
    try:
        for kind in ("application/json", "text/plain"):
            script = f"""async () => {{
                const words = {{method: "POST", headers: {{"Content-Type": "{kind}"}}, body: "{{}}"}};
                try {{ return (await fetch("{served.server.address}sample", words)).status }}
                catch (error) {{ return "refused" }}
            }}"""
            assert page.evaluate(script) == "refused"
    finally:
        served.server.answer = held
    assert drawn == []
