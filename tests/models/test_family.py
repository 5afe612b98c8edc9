"""The families as they are named, to the parameter; and family files that do not hold a family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.family import Family, FamilyError, build_family, count_macs, count_parameters, network_config
from models.network import FLAVOURS
from models.trigflow import TrigFlowNet

FAMILIES = Path(__file__).parents[2] / "configs" / "family"
# EDM2's networks: parameters with the weighting head's 128, and GMACs at 64x64x4 of the operations that are counted
# here, to one decimal.
IMG512 = {
    "xxs": (31_309_029, None),
    "xs": (124_713_253, 45.0),
    "s": (280_212_837, 100.8),
    "m": (497_807_781, 178.9),
    "l": (777_498_085, 279.3),
    "xl": (1_119_283_749, 402.0),
    "xxl": (1_523_164_773, 546.9),
}


def load(name: str, **changes: Any) -> Family:
    content = yaml.safe_load((FAMILIES / f"{name}.yaml").read_text(encoding="utf-8"))
    return build_family({**content, **changes}, name)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("size", IMG512)
def test_img512_has_the_parameters_of_edm2_exactly(size: str, flavour: str) -> None:
    """In both flavours: what TrigFlow changes adds no parameter."""
    assert count_parameters(load("img512", flavour=flavour).size(size)) == IMG512[size][0]


@pytest.mark.parametrize("size", [size for size, (_, gmacs) in IMG512.items() if gmacs])
def test_img512_has_the_macs_of_edm2(size: str) -> None:
    """Within 0.1 %, or half of the last decimal that is published."""
    gmacs = IMG512[size][1]
    assert gmacs is not None
    assert count_macs(load("img512").size(size)) / 1e9 == pytest.approx(gmacs, rel=1e-3, abs=0.05)


@pytest.mark.parametrize("size", ["xs", "s", "m", "l", "xl"])
def test_img64_differs_by_its_colours(size: str) -> None:
    """One channel less: 9 weights of each first and last feature of the finest level."""
    channels = load("img64").size(size).model_channels
    assert IMG512[size][0] - count_parameters(load("img64").size(size)) == 2 * 9 * channels


def test_names_of_every_tensor() -> None:
    """199 parameters and 4 buffers in every size, named and shaped as in EDM2's files; a gain is stored as [1]."""
    for size, network in load("img512", flavour="edm2").sizes.items():
        with torch.device("meta"):
            net = TrigFlowNet(network)
        assert len(list(net.parameters())) == 199, size
        shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
        assert len(shapes) == 203
        c = network.model_channels
        assert shapes["unet.out_gain"] == shapes["unet.enc.64x64_block0.emb_gain"] == (1,)
        assert shapes["unet.emb_label.weight"] == (4 * c, 1000)
        assert shapes["unet.enc.64x64_conv.weight"] == (c, 5, 3, 3)
        assert shapes["unet.dec.8x8_block3.conv_skip.weight"] == (4 * c, 7 * c, 1, 1)
        assert shapes["unet.dec.16x16_block0.attn_qkv.weight"] == (9 * c, 3 * c, 1, 1)
        assert shapes["logvar_fourier.freqs"] == (128,)


def test_a_family_has_one_flavour_and_keys_of_its_own() -> None:
    plain = load("nano").size("xs")
    assert (plain.time_input, plain.time_embedding, plain.modulation_norm) == ("t", "positional", "double")
    edm2 = load("nano", flavour="edm2").size("xs")
    assert (edm2.time_input, edm2.time_embedding, edm2.modulation_norm) == ("log_sigma", "fourier", "none")
    content = yaml.safe_load((FAMILIES / "nano.yaml").read_text())
    mixed = load("nano", flavour="edm2", common={**content["common"], "time_embedding": "positional"}).size("xs")
    assert (mixed.time_input, mixed.time_embedding) == ("log_sigma", "positional")


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("img512", {"resolution": 60}, r"sizes.xxs: resolution 60 does not divide by 8: channel_mult \[1, 2, 3, 4\]"),
        ("img512", {"head_channels": 48}, r"width 256 at resolution 8 .* heads of head_channels 48"),
        ("nano", {"attention_resolutions": [5]}, r"attention_resolutions 5 is no level: the levels are \[8, 4\]"),
        ("nano", {"time_input": "sigma"}, "time_input 'sigma' is unknown: choose one of t, log_sigma"),
        ("nano", {"head_channels": 0}, "head_channels 0 is no whole number from 1"),
        ("nano", {"num_classes": 10**12}, "num_classes 1000000000000 is no whole number from 0 to 1,000,000"),
        ("nano", {"resolution": 2**19, "attention_resolutions": []}, "more than 1,000,000,000,000 numbers an image"),
        ("nano", {"blocks_per_level": 1.5}, "blocks_per_level 1.5 is no whole number from 1"),
        ("nano", {"num_classes": True}, "num_classes True is no whole number from 0"),
        ("nano", {"latent_channels": "4"}, "latent_channels '4' is no whole number from 1"),
        ("nano", {"channel_mult": [0, 1]}, "channel_mult 0 is no whole number from 1"),
        ("nano", {"channel_mult": []}, "channel_mult is empty"),
        ("nano", {"channel_mult": 3}, "channel_mult 3 is no list"),
        ("nano", {"fourier_scale": "x"}, "fourier_scale 'x' is no number above 0"),
        ("nano", {"guidance": "yes"}, "guidance 'yes' is neither true nor false"),
        ("nano", {"attention_in0": 1}, "attention_in0 1 is neither true nor false"),
        (
            "nano",
            {"attention_in0": True},
            r"attention_in0: attention_resolutions \[4\] hold 4, .* leave attention_in0 out",
        ),
        ("nano", {"attention_in0": True, "attention_resolutions": [], "head_channels": 60}, "width 16 at resolution 4"),
        ("nano", {"model_chanels": 3}, "model_chanels: unknown key; known: .*model_channels"),
    ],
)
def test_shapes_that_do_not_fit(family: str, keys: dict[str, Any], message: str) -> None:
    content = yaml.safe_load((FAMILIES / f"{family}.yaml").read_text())
    with pytest.raises(FamilyError, match=message):
        load(family, common={**content["common"], **keys})


def test_a_guidance_input_costs_one_linear_layer() -> None:
    plain = load("nano").size("m")
    guided = replace(plain, guidance=True)
    layer = plain.widths[0] * max(plain.widths)
    assert count_parameters(guided) - count_parameters(plain) == layer + 1  # and its gain
    assert count_macs(guided) - count_macs(plain) == layer


def test_an_unknown_size_lists_the_known() -> None:
    with pytest.raises(FamilyError, match="no size 'xxxl': its sizes are xxs, xs, s, m, l, xl, xxl"):
        load("img512").size("xxxl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"common": 5}, "here: common is 5: give a mapping"),
        ({"sizes": ["s", "m"]}, r"here: sizes is \['s', 'm'\]: give a mapping"),
        ({"sizes": {"s": None}}, "here: sizes.s is None: give a mapping"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"flavour": ["edm2"]}, r"here: flavour \['edm2'\] is unknown"),
        ({"sizes": {}}, "at least one size"),
        ({"name": [1], "sizes": {"s": {}}}, "a name, a text"),
        ({"flavour": "mint"}, "here: flavour 'mint' is unknown: known are edm2, trigflow"),
    ],
)
def test_what_is_no_mapping_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        build_family({"name": "mine", "common": {}, "sizes": {}, **changes}, "here")


def test_descriptions_of_networks_are_what_runs_are_known_by() -> None:
    """Keys and values, to the letter: what is added to them makes other runs of all that were ever trained."""
    known = {
        "resolution": 8,
        "latent_channels": 4,
        "num_classes": 10,
        "model_channels": 8,
        "channel_mult": (1, 2),
        "blocks_per_level": 1,
        "attention_resolutions": (4,),
        "head_channels": 8,
        "time_input": "t",
        "time_embedding": "positional",
        "fourier_scale": 1.0,
        "modulation_norm": "double",
        "guidance": False,
    }
    described = load("nano").size("xs").describe()
    assert list(described.items()) == list(known.items())
    assert network_config(described, "here") == load("nano").size("xs")


def test_a_description_has_what_differs_from_all_before() -> None:
    network = replace(load("nano").size("xs"), attention_resolutions=(8,), attention_in0=True)
    assert network.describe()["attention_in0"] is True
    assert network_config(network.describe(), "here") == network
