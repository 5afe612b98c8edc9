"""The report of a study's folder as a job: `python -m scaling.report FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from data_pipeline.errors import UserError
from scaling.errors import explain
from slurm.restarts import USAGE


def main() -> int:
    """Write the report of what is done and return the exit code: 0, or 2 where there is nothing to report."""
    from scaling.report.build import build_report

    try:
        print(f"report: {build_report(Path(sys.argv[1]))}")
    except (UserError, OSError) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
