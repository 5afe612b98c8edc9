"""Family files that do not hold a family."""

from __future__ import annotations

from typing import Any

import pytest

from models.family import FamilyError, build_family


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"common": 5}, "here: common is 5: give a mapping"),
        ({"sizes": ["s", "m"]}, r"here: sizes is \['s', 'm'\]: give a mapping"),
        ({"sizes": {"s": None}}, "here: sizes.s is None: give a mapping"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_what_is_no_mapping_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        build_family({"name": "mine", "common": {}, "sizes": {}, **changes}, "here")
