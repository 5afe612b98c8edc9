"""`study run` whose processes note what they are about to do, so that they can be killed while they do it.

As a program it is the command line with these notes; the report, which would take longer than all else, is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.forked import Program

MARKS = "TRIGSCALE_TEST_MARKS"  # the folder of the notes, a file a process
LIMIT_SECONDS = 600.0
STAGES = {"train": "training", "draw_samples": "sampling", "evaluate": "scoring"}  # of scaling.work.stages


class Launched:
    """One `study run` and the processes of its runs."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """folder: an empty one of this launch, for its notes and what it says."""
        self._marks = folder / "marks"
        self._marks.mkdir(parents=True)
        environment = {**os.environ, MARKS: str(self._marks), "OMP_NUM_THREADS": "1"}
        self.program = Program(folder, str(Path(__file__)), ["study", "run", *arguments], environment)

    def marks(self) -> dict[int, list[tuple[str, float]]]:
        """What each process of a run has noted, with the time: starting, then the stages, and ended."""
        found = {}
        for path in self._marks.glob("[0-9]*"):
            words = [line.split() for line in path.read_text().splitlines()]
            found[int(path.name)] = [(word, float(when)) for word, when in words]
        return found

    def doing(self) -> set[str]:
        """The last note of each living process of a run."""
        living = self.program.workers()
        return {words[-1][0] for pid, words in self.marks().items() if pid in living}

    def running(self) -> bool:
        """Whether the launcher has not ended."""
        return self.program.returncode is None

    def wait(self) -> int:
        """The launcher's exit code once it and all it started have ended; AssertionError for one that stays."""
        deadline = time.monotonic() + LIMIT_SECONDS
        self.program.communicate(LIMIT_SECONDS)
        while self.program.workers():
            assert time.monotonic() < deadline, "a process outlives its launcher"
            time.sleep(0.01)
        assert self.program.returncode is not None
        return self.program.returncode

    def said(self) -> str:
        """What the launcher printed."""
        return "".join(path.read_text() for path in self.program.outputs)


def _mark(word: str) -> None:
    path = Path(os.environ[MARKS]) / str(os.getpid())
    text = path.read_text() if path.exists() else ""
    whole = path.with_name(f".{path.name}")
    whole.write_text(f"{text}{word} {time.monotonic()}\n")
    whole.replace(path)


def _marked(word: str, call: Callable[..., Any], after: str = "") -> Callable[..., Any]:
    def marking(*arguments: Any, **keys: Any) -> Any:
        _mark(word)
        result = call(*arguments, **keys)
        if after:
            _mark(after)
        return result

    return marking


def main() -> None:
    """The command line, its workers' stages noted: they are forked from this process."""
    import scaling.report.build
    from scaling.__main__ import main as command_line
    from scaling.work import stages, worker

    scaling.report.build.build_report = lambda study_folder: study_folder / "report"
    for name, word in STAGES.items():
        setattr(stages, name, _marked(word, getattr(stages, name)))
    worker.main = _marked("starting", worker.main, after="ended")
    command_line()


if __name__ == "__main__":
    main()
