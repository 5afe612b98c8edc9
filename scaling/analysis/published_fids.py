"""What the papers print for each size of a family, beside which our own networks stand."""

from __future__ import annotations

from scaling.analysis.table_file import PUBLISHED, load_table

# The tables of a family, and of those the one whose multiply-adds were printed rather than counted by us.
TABLES = {
    "img512": ("scm-imagenet512.csv", "edm2-imagenet512.csv"),
    "img64": ("scm-imagenet64.csv", "edm2-imagenet64.csv"),
}
MACS_PRINTED = "img512"
TEACHERS = ("edm2", "edm2-guided", "teacher")
# Columns of the terminal's table: heading, and the keys of `published_fids` that it shows.
COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("EDM2", ("edm2", "edm2-guided")),
    ("teacher", ("teacher",)),
    ("sCT", ("sct-1", "sct-2")),
    ("sCD", ("scd-1", "scd-2")),
    ("sCD+VSD", ("scd_vsd-1", "scd_vsd-2")),
)


def published_fids(family: str) -> dict[str, dict[str, float]]:
    """The published FIDs of a family by size and "method" or "method-steps"; empty where nothing was published."""
    found: dict[str, dict[str, float]] = {}
    for table in TABLES.get(family, ()):
        for row in load_table(PUBLISHED / table):
            key = row.method if row.method in TEACHERS else f"{row.method}-{row.steps}"
            found.setdefault(row.size.lower(), {})[key] = row.fd
    return found


def published_macs(family: str) -> dict[str, float]:
    """The published multiply-adds of one forward pass by size."""
    if family != MACS_PRINTED:
        return {}
    return {row.size.lower(): row.macs for row in load_table(PUBLISHED / TABLES[family][0])}
