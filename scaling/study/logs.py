"""`study logs`: what the processes of a run said, and go on to say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.text import printable
from scaling.config.validation import ConfigError, choices
from scaling.run.home import RunHome, StudyFolder
from slurm.redaction import Redactor

POLL_SECONDS = 0.5


def find_run(folder: Path, name: str) -> RunHome:
    """The run of a study of that name, or of the only name that begins so, such as scd-xs. ConfigError."""
    homes = {home.name: home for home in StudyFolder(folder).homes()}
    if not homes:
        raise ConfigError(f"{folder}: no study was launched here: `trigscale study run` or `submit` does that")
    found = [name] if name in homes else [each for each in homes if each.startswith(name)]
    if len(found) != 1:
        what = f"begins {len(found)} names: {', '.join(found)}" if found else f"is no run; {choices(name, [*homes])}"
        raise ConfigError(f"{name!r} {what}")
    return homes[found[0]]


def lines(home: RunHome, *, follow: bool, ended: Callable[[], bool]) -> Iterator[str]:
    """The lines of a run's log without secrets; with `follow` also those to come, until `ended` says so."""
    redact, position, rest = Redactor(), 0, ""
    while True:
        over = not follow or ended()  # asked before the last look
        if home.log.is_file():
            with home.log.open("rb") as stream:
                stream.seek(position)
                data = stream.read()
            position += len(data)
            *whole, rest = (rest + data.decode(errors="replace")).split("\n")
            yield from (printable(redact(line)) for line in whole)
        if over:
            if rest:
                yield printable(redact(rest))
            return
        time.sleep(POLL_SECONDS)
