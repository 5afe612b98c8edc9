"""Secrets do not reach logs: values of variables whose names say so, and tokens of known forms."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|ACCESS_?KEY|CREDENTIAL|PRIVATE_?KEY", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16})\b"
)
LEAST = 8  # characters of a value that is taken for a secret


class Redactor:
    """Replaces secrets in texts."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        found = {
            value: name
            for name, value in environment.items()
            if SECRET_NAME.search(name) and len(value) >= LEAST and not value.startswith("/")
        }
        self._values = sorted(found.items(), key=lambda item: -len(item[0]))

    def __call__(self, text: str) -> str:
        """The text with [NAME] for values of secret variables, and [secret] for what looks like a token."""
        for value, name in self._values:
            text = text.replace(value, f"[{name}]")
        return SECRET_VALUE.sub("[secret]", text)
