"""Blocks, tensors, parameters and multiply-adds in closed form against what torch counts in the network itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.family import build_family
from models.network import FLAVOURS, NetworkConfig
from models.shape import count_macs, count_parameters, network_shapes, state_shapes
from tests.models.counted import built, macs_of, shapes_of

FAMILIES = sorted((Path(__file__).parents[2] / "configs" / "family").glob("*.yaml"))
KINDS = [{**flavour, "guidance": guided} for flavour, guided in product(FLAVOURS.values(), (False, True))]


def sizes(path: Path) -> list[NetworkConfig]:
    """The networks of a family, smallest first."""
    return [*build_family(yaml.safe_load(path.read_text(encoding="utf-8")), path.name).sizes.values()]


@st.composite
def networks(draw: st.DrawFn) -> NetworkConfig:
    """Small networks of every form: levels, depth, attention, guidance, classes, odd widths."""
    levels = draw(st.integers(1, 3))
    resolution = draw(st.integers(1, 2)) << levels
    at = [resolution >> level for level in range(levels)]
    values: dict[str, Any] = {
        "resolution": resolution,
        "latent_channels": draw(st.integers(1, 5)),
        "num_classes": draw(st.integers(0, 3)),
        "model_channels": draw(st.integers(1, 12)),
        "channel_mult": tuple(draw(st.lists(st.integers(1, 4), min_size=levels, max_size=levels))),
        "blocks_per_level": draw(st.integers(1, 3)),
        "attention_resolutions": tuple(draw(st.lists(st.sampled_from(at), unique=True))),
        "head_channels": draw(st.integers(1, 8)),
        "attention_in0": draw(st.booleans()),
        **draw(st.sampled_from(KINDS)),
    }
    try:
        return NetworkConfig(**values)
    except ValueError:
        assume(False)
        raise


def assert_shapes(config: NetworkConfig) -> None:
    net = built(config)
    expected = [(name, tuple(value.shape)) for name, value in net.state_dict().items()]
    assert list(state_shapes(config).items()) == expected
    assert network_shapes(config) == shapes_of(net)
    assert count_parameters(config) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_tensors_of_every_size_in_both_flavours_with_and_without_guidance(path: Path) -> None:
    for config, kind in product(sizes(path), KINDS):
        assert_shapes(replace(config, **kind))


@settings(max_examples=60, deadline=None)
@given(networks())
def test_tensors_of_any_shape(config: NetworkConfig) -> None:
    assert_shapes(config)


@settings(max_examples=5, deadline=None)
@given(networks())
def test_multiply_adds_of_any_shape(config: NetworkConfig) -> None:
    assert count_macs(config) == macs_of(built(config))


@pytest.mark.parametrize("family", ["nano", "img512"])
def test_multiply_adds_of_the_smallest_size(family: str) -> None:
    config = sizes(FAMILIES[0].with_name(f"{family}.yaml"))[0]
    assert count_macs(config) == macs_of(built(config))


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=() if p.stem == "nano" else pytest.mark.nightly, id=p.stem) for p in FAMILIES],
)
def test_multiply_adds_of_every_size_in_both_flavours_with_and_without_guidance(path: Path) -> None:
    for config, kind in product(sizes(path), KINDS):
        assert count_macs(replace(config, **kind)) == macs_of(built(replace(config, **kind)))


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # to import it raises
from pathlib import Path
from models.encoders import ENCODERS, get_encoder
from models.family import build_family, count_macs, count_parameters
from models.network import NetworkConfig
from models.shape import network_shapes
config = NetworkConfig(8, 4, 10, 16, (1, 2), 1, (4,), head_channels=8)
print(count_parameters(config), count_macs(config), len(network_shapes(config).tensors), sorted(ENCODERS))
"""


def test_shapes_and_encoders_are_known_without_torch() -> None:
    found = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert "fashion-s2d-v1" in found.stdout
