"""Networks imported from EDM2's snapshots: the tensors of the file, EDM2's function, and its exact TrigFlow view."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.edm2 import EDM2Network, as_trigflow_teacher, edm_denoise, edm_logvar, read_edm2
from models.edm2_pickle import EDM2Error
from models.family import count_parameters
from models.network import FLAVOURS, NetworkConfig
from models.trigflow import SIGMA_DATA, TrigFlowNet, denoise, expand, time_from_sigma
from tests.models.edm2_files import (
    TINY,
    arguments_of,
    build,
    published_names,
    random_state,
    snapshot,
    write,
    write_network,
)
from tests.models.edm2_reference import denoiser, logvar

# Three levels with attention of several heads at two of them, and an unconditional network of pixels.
DEEP = NetworkConfig(16, 4, 3, 8, (1, 2, 3), 2, (8, 4), head_channels=8, **FLAVOURS["edm2"])
PIXELS = NetworkConfig(8, 3, 0, 8, (1, 2), 1, (4,), head_channels=4, **FLAVOURS["edm2"])
# EDM2's attention in the decoder's first block alone, and beside a level that is finer; heads that are wider than said.
IN0 = NetworkConfig(8, 4, 3, 8, (1, 2), 1, (), head_channels=16, attention_in0=True, **FLAVOURS["edm2"])
FINER = NetworkConfig(16, 3, 0, 15, (2, 1, 3), 1, (16,), head_channels=14, attention_in0=True, **FLAVOURS["edm2"])
NONE = NetworkConfig(8, 4, 3, 8, (1, 2), 1, (), **FLAVOURS["edm2"])
SHAPES = {"tiny": TINY, "deep": DEEP, "pixels": PIXELS, "in0": IN0, "finer": FINER, "none": NONE}
SIGMAS = (0.002, 0.01, 0.1, 0.5, 2.0, 11.0, 80.0)


def network_of(config: NetworkConfig, state: dict[str, Tensor]) -> TrigFlowNet:
    net = TrigFlowNet(config).double().requires_grad_(False)
    net.load_state_dict(state)
    return net.eval()


def noisy(config: NetworkConfig) -> tuple[Tensor, Tensor, Tensor]:
    """x, sigma and labels: one sample for each of SIGMAS and each class, and no class."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(-1, config.num_classes).repeat_interleave(len(SIGMAS))
    sigma = torch.tensor(SIGMAS, dtype=torch.float64).repeat(config.num_classes + 1)
    shape = (len(labels), config.latent_channels, config.resolution, config.resolution)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x * expand((sigma**2 + SIGMA_DATA**2).sqrt(), x), sigma, labels


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_an_imported_network_computes_edm2s_function(tmp_path: Path, config: NetworkConfig) -> None:
    imported = read_edm2(write_network(tmp_path / "x.pkl", random_state(config), config))
    assert imported.config == config
    x, sigma, labels = noisy(config)
    result = edm_denoise(network_of(config, imported.state), x, sigma, labels)
    one_hot = (labels[:, None] == torch.arange(config.num_classes)).double() if config.num_classes else None
    wide = {name: value.double() for name, value in imported.state.items()}
    expected = denoiser(wide, x, sigma, one_hot, config.head_channels)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    weighting = edm_logvar(network_of(config, imported.state), sigma)
    torch.testing.assert_close(weighting, logvar(wide, sigma), rtol=0, atol=1e-12)
    # The network's part of the result is no small thing beside c_skip x, and the classes differ.
    c_skip = expand(SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2), x)
    assert (expected - c_skip * x)[sigma == 0.5].abs().mean() > 0.05


@pytest.mark.parametrize("sigma", [0.5, 40.0, 80.0])
def test_float32_is_as_near_to_float64_as_edm2s_own(sigma: float) -> None:
    """Above all at large sigma, which a time near pi/2 holds to few digits: by way of it the error is 20 times this."""
    state, samples = random_state(DEEP), 16
    generator = torch.Generator().manual_seed(5)
    x = sigma * torch.randn(samples, 4, 16, 16, generator=generator)
    sigmas = torch.linspace(0.9 * sigma, sigma, samples)
    labels = torch.arange(samples) % DEEP.num_classes
    one_hot = (labels[:, None] == torch.arange(DEEP.num_classes)).float()
    wide = {name: value.double() for name, value in state.items()}
    exact = denoiser(wide, x.double(), sigmas.double(), one_hot.double(), DEEP.head_channels)
    net = network_of(DEEP, state).float()
    theirs = (denoiser(state, x, sigmas, one_hot, DEEP.head_channels) - exact).norm() / exact.norm()
    ours = (edm_denoise(net, x, sigmas, labels) - exact).norm() / exact.norm()
    assert ours < 1.3 * theirs
    assert ours < 2e-6
    error = (edm_logvar(net, sigmas) - logvar(wide, sigmas.double())).abs().max()
    assert error < 1.5e-6


@pytest.mark.parametrize("config", [TINY, PIXELS], ids=["tiny", "pixels"])
def test_the_bound_of_activations_is_that_of_edm2(tmp_path: Path, config: NetworkConfig) -> None:
    """Inputs that are far too large reach the decoder's last blocks, which limit them to +-256."""
    state = random_state(config)
    x, sigma, labels = noisy(config)
    one_hot = (labels[:, None] == torch.arange(config.num_classes)).double() if config.num_classes else None
    wide = {name: value.double() for name, value in state.items()}
    result = edm_denoise(network_of(config, state), x * 1e4, sigma, labels)
    torch.testing.assert_close(result, denoiser(wide, x * 1e4, sigma, one_hot, config.head_channels))


@pytest.mark.parametrize("config", [TINY, DEEP, PIXELS, IN0], ids=["tiny", "deep", "pixels", "in0"])
def test_the_trigflow_view_is_the_same_denoiser(config: NetworkConfig) -> None:
    state = random_state(config, seed=1)
    x, sigma, labels = noisy(config)
    edm = edm_denoise(network_of(config, state), x, sigma, labels)
    teacher, t = network_of(config, as_trigflow_teacher(state)), time_from_sigma(sigma)
    x_t = expand(torch.cos(t), x) * x
    trigflow = denoise(x_t, teacher(x_t / SIGMA_DATA, t, labels), t)
    torch.testing.assert_close(trigflow, edm, rtol=0, atol=1e-12)
    # The state as it is, taken for TrigFlow's, is another function: the sign matters.
    wrong = denoise(x_t, network_of(config, state)(x_t / SIGMA_DATA, t, labels), t)
    assert (wrong - edm).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gain", [(), (1,)], ids=["gains []", "gains [1]"])
def test_every_tensor_is_that_of_the_file(tmp_path: Path, dtype: torch.dtype, gain: tuple[int, ...]) -> None:
    state = {name: value.to(dtype) for name, value in random_state(TINY).items()}
    stored = {name: value.reshape(gain) if name.endswith("gain") else value for name, value in state.items()}
    imported = read_edm2(write_network(tmp_path / "x.pkl", stored))
    assert imported.state.keys() == state.keys()
    assert all(value.dtype == torch.float32 for value in imported.state.values())
    assert all(torch.equal(value, state[name].float()) for name, value in imported.state.items())


@pytest.mark.parametrize("protocol", [4, 5])
def test_protocols_of_the_pythons_that_edm2_runs_on(tmp_path: Path, protocol: int) -> None:
    content = snapshot(build(random_state(TINY), **arguments_of(TINY)))
    imported = read_edm2(write(tmp_path / "x.pkl", content, protocol))
    assert all(torch.equal(imported.state[name], value) for name, value in random_state(TINY).items())


def test_tensors_may_lie_anywhere_in_their_storage(tmp_path: Path) -> None:
    state = random_state(TINY)
    name = "unet.emb_noise.weight"
    wider = torch.randn(16, 20)
    state[name] = wider.T[3:11, :].T.contiguous().T[:8].T  # strides and an offset of its own
    state["logvar_linear.weight"] = torch.arange(300.0)[7:135].reshape(1, 128)
    imported = read_edm2(write_network(tmp_path / "x.pkl", state))
    assert torch.equal(imported.state[name], wider[:, 3:11])
    assert imported.state["logvar_linear.weight"][0, 0] == 7


def misfits(**changes: Any) -> dict[str, Tensor]:
    state = {**random_state(TINY), **{key.replace("__", "."): value for key, value in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet__out_gain": None}, r"missing unet.out_gain \[1\]"),
        ({"unet__emb_label__weight": None}, r"missing unet.emb_label.weight \[16, 5\]"),
        ({"unet__emb_fourier__freqs": None}, r"missing unet.emb_fourier.freqs \[8\]"),
        ({"unet__extra__weight": torch.ones(2, 3)}, r"surplus unet.extra.weight \[2, 3\]"),
        ({"unet__out_conv__weight": torch.ones(3, 8, 3, 3)}, r"\[3, 8, 3, 3\] where \[4, 8, 3, 3\] belongs"),
        ({"unet__out_conv__weight": torch.ones(8, 4, 3, 3)}, r"\[8, 4, 3, 3\] where \[4, 8, 3, 3\] belongs"),
        ({"unet__out_gain": torch.ones(2)}, r"unet.out_gain is \[2\] where \[1\] belongs"),
        ({"logvar_linear__weight": torch.ones(128)}, r"logvar_linear.weight is \[128\] where \[1, 128\] belongs"),
        ({"unet__out_gain": torch.tensor(torch.inf)}, "unet.out_gain: holds NaN or infinity"),
        ({"unet__out_gain": torch.tensor(1.0).double()}, "torch.DoubleStorage"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EDM2Error, match=message):
        read_edm2(write_network(tmp_path / "x.pkl", misfits(**changes)))


def test_many_misfits_are_counted(tmp_path: Path) -> None:
    state = dict(list(random_state(TINY).items())[5:])
    with pytest.raises(EDM2Error, match=r"describes: missing .*; missing .*; missing .*; and 2 more$"):
        read_edm2(write_network(tmp_path / "x.pkl", state))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_channels": 8}, "8 channels: it was trained on mean and standard deviation"),
        ({"model_channels": None}, "does not say its model_channels"),
        ({"img_resolution": None}, "does not say its img_resolution"),
        ({"model_channels": 12.5}, "model_channels 12.5: a whole number"),
        ({"model_channels": 2**40}, "model_channels 1099511627776: a whole number"),
        ({"model_channels": True}, "model_channels True: a whole number"),
        ({"num_blocks": 10**6}, "63 tensors, too few for 2 levels of 1000000 blocks"),
        ({"channel_mult": 3}, "channel_mult 3: a list"),
        ({"channel_mult": ["1"]}, "channel_mult '1': a whole number"),
        ({"sigma_data": 1.0}, "sigma_data 1.0; only 0.5 can be represented"),
        ({"logvar_channels": 64}, "logvar_channels 64; only 128"),
        ({"resample_filter": [1, 3, 3, 1]}, r"resample_filter \[1, 3, 3, 1\]; only \[1, 1\]"),
        ({"res_balance": 0.5}, "res_balance 0.5; only 0.3"),
        ({"clip_act": 128}, "clip_act 128; only 256"),
        ({"channel_mult_emb": 3}, "channel_mult_emb 3; only 2 or None"),
        ({"channel_mult_noise": 2}, "channel_mult_noise 2; only 1 or None"),
        ({"attn_resolutions": 16}, "attn_resolutions 16: a list of whole numbers"),
        ({"attn_resolutions": [16, None]}, "attn_resolutions None: a whole number"),
        ({"channels_per_head": 0}, "channels_per_head 0: a whole number"),
        ({"concat_balance": [[[[[0.5]]]]]}, "concat_balance .*; only 0.5"),
        ({"self_conditioning": True}, "unknown argument 'self_conditioning' = True"),
        ({"channel_mult": []}, r"channel_mult \[\]: a list"),
        ({"channel_mult": [1, 2**20]}, "wider than 65536 channels"),
        ({"num_blocks": 10**5000}, "num_blocks a int: a whole number"),
        ({"colour": 10**5000}, "unknown argument 'colour' = a int"),
        ({"colour": {"nested": [[1] * 9]}}, "unknown argument 'colour' = a dict"),
        ({"\x1b[31mred\n": 1}, r"unknown argument '\\x1b\[31mred\\n' = 1"),
        ({"channels_per_head": 5}, "cannot be represented: width 16 at resolution 4 does not divide"),
        ({"img_resolution": 9}, "cannot be represented: resolution 9 does not divide by 2"),
    ],
)
def test_arguments_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EDM2Error, match=message):
        read_edm2(write_network(tmp_path / "x.pkl", random_state(TINY), **changes))


def test_arguments_without_names_and_those_of_no_effect(tmp_path: Path) -> None:
    network = build(random_state(TINY), model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8)
    network.__dict__["_init_args"] = (8, 4, 5, False, 0.5, 128)
    network.__dict__["_init_kwargs"] |= {
        "attn_resolutions": [64, 4],
        "clip_act": 256.0,
        "dropout": 0.5,
        "resample_filter": (1, 1),
    }
    assert read_edm2(write(tmp_path / "x.pkl", snapshot(network))).config == TINY
    network.__dict__["_init_args"] += (1,)
    with pytest.raises(EDM2Error, match="has 7 arguments without a name"):
        read_edm2(write(tmp_path / "y.pkl", snapshot(network)))


DEFAULT_SHAPES = {
    # The levels of 64 channels and more among 16 and 8 attend, and so does in0 at the coarsest.
    16: ({"model_channels": 16}, (), ["dec.2x2_in0"]),
    32: ({"model_channels": 22}, (8,), ["enc.8x8_block0", "dec.4x4_in0", "dec.8x8_block0", "dec.8x8_block1"]),
    64: ({"model_channels": 16}, (8,), ["enc.8x8_block0", "dec.8x8_in0", "dec.8x8_block0", "dec.8x8_block1"]),
}


@pytest.mark.parametrize("resolution", DEFAULT_SHAPES)
def test_edm2s_default_architecture_at_every_resolution(tmp_path: Path, resolution: int) -> None:
    """A file that says no more than its code needs to be told, with one block a level: which blocks have attention."""
    said, levels, attend = DEFAULT_SHAPES[resolution]
    blocks, in0 = {f"unet.{name}" for name in attend}, resolution < 64
    widths = [said["model_channels"] * factor for factor in (1, 2, 3, 4)]
    config = NetworkConfig(
        resolution, 3, 0, said["model_channels"], (1, 2, 3, 4), 1, levels, attention_in0=in0, **FLAVOURS["edm2"]
    )
    state = random_state(config)
    assert {name.removesuffix(".attn_qkv.weight") for name in state if name.endswith("attn_qkv.weight")} == blocks
    assert state[f"unet.dec.{resolution >> 3}x{resolution >> 3}_in0.attn_qkv.weight"].shape[0] == 3 * widths[-1]
    unsaid = dict.fromkeys(("channel_mult", "attn_resolutions", "channels_per_head"))
    imported = read_edm2(write_network(tmp_path / "x.pkl", state, config, **unsaid))
    assert imported.config == config


def test_embedding_widths_that_are_said_as_they_are(tmp_path: Path) -> None:
    path = write_network(tmp_path / "x.pkl", random_state(TINY), channel_mult_noise=1, channel_mult_emb=2)
    assert read_edm2(path).config == TINY


@pytest.mark.parametrize("attribute", ["_init_args", "_init_kwargs", "_parameters", "_buffers", "_modules"])
def test_modules_without_their_parts_are_refused(tmp_path: Path, attribute: str) -> None:
    network = build(random_state(TINY))
    content = snapshot(network)
    del network.__dict__[attribute]
    with pytest.raises(EDM2Error, match=attribute):
        read_edm2(write(tmp_path / "x.pkl", content))


@pytest.mark.slow
def test_the_real_size_s(tmp_path: Path) -> None:
    """A file of EDM2-S as it is published: 203 tensors in half precision, gains without an axis, default arguments."""
    state = {}
    for n, (name, shape) in enumerate(published_names(192).items()):
        count = int(torch.tensor(shape).prod()) if shape else 1
        state[name] = torch.linspace(-1 - n / 100, 1, count).half().reshape(shape)
    config = NetworkConfig(64, 4, 1000, 192, (1, 2, 3, 4), 3, (16, 8), **FLAVOURS["edm2"])
    defaults = dict.fromkeys(("channel_mult", "num_blocks", "attn_resolutions", "channels_per_head"))
    path = write_network(tmp_path / "edm2-img512-s-2147483-0.130.pkl", state, config, **defaults)
    imported: EDM2Network = read_edm2(path)
    path.unlink()  # half a gigabyte
    assert (imported.config, len(imported.state)) == (config, 203)
    assert sum(value.numel() for value in imported.state.values() if value.ndim) == 280_212_837 + 2 * 192 + 2 * 128
    assert count_parameters(imported.config) == 280_212_837
    for name, value in imported.state.items():
        assert torch.equal(value, state[name].float().reshape(value.shape)), name


@pytest.mark.parametrize(
    ("channels", "parameters"),
    [(64, 31_309_029), (128, 124_713_253), (192, 280_212_837), (256, 497_807_781), (448, 1_523_164_773)],
)
def test_the_names_of_edm2s_files_are_ours(channels: int, parameters: int) -> None:
    """The 203 names and shapes of the published description, for every size; gains are [] there and [1] here."""
    config = NetworkConfig(64, 4, 1000, channels, (1, 2, 3, 4), 3, (16, 8), **FLAVOURS["edm2"])
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in TrigFlowNet(config).state_dict().items()}
    theirs = {name: shape or (1,) for name, shape in published_names(channels).items()}
    assert len(theirs) == 203
    assert ours == theirs
    assert count_parameters(config) == parameters
    assert count_parameters(replace(config, **FLAVOURS["trigflow"])) == parameters
