"""`make docs`: every page that the menu names is there, and a link that leads nowhere ends the build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"


def pages(menu: Any) -> list[str]:
    """The files of a menu, in order."""
    if isinstance(menu, str):
        return [menu]
    inner = menu.values() if isinstance(menu, dict) else menu
    return [page for each in inner for page in pages(each)]


def test_the_menu_names_every_text() -> None:
    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in texts)


@pytest.mark.nightly
def test_the_site_is_built_and_broken_links_are_refused() -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    variables = {**os.environ, "PYTHONWARNINGS": "ignore"}
    # `-o`: the installation that runs this test is taken as it is.
    command = ["make", "-o", ".venv/.installed", "docs", f"BIN={Path(sys.executable).parent}"]
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "WARNING" not in result.stderr
    assert "softmax(scale q k^T) v" in (SITE / "docs/reference/attention.html").read_text()
    assert 'href="docs/training.html"' in (SITE / "index.html").read_text()
    for path in SITE.rglob("*.html"):  # it is looked at without a network
        assert 'src="http' not in path.read_text()
    page = ROOT / "build" / "docs" / "docs" / "ema.md"
    page.write_text(page.read_text() + "\n[nowhere](nowhere.md)\n")
    again = [sys.executable, "-m", "mkdocs", "build"]
    result = subprocess.run(again, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert result.returncode != 0
    assert "nowhere.md" in result.stderr
    shutil.rmtree(ROOT / "build" / "docs")
