"""HTML pages from a template beside the code that fills it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2  # loops and escaping in pages


def render_page(template: Path, **values: Any) -> str:
    """The HTML of a template; every text among the values is escaped, and a value that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)
