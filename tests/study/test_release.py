"""`trigscale release` of a finished run: what a stranger loads, samples and distils from is what the run has."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import load_release
from models.release import CONFIG, SUMS, WEIGHTS
from scaling.training.checkpoints import checkpoint
from scaling.training.start import averaged_weights
from scaling.weights.folder import load_model

Fixture = Any  # conftest.py says what it is


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, finished: Fixture) -> dict[str, Path]:
    """Teacher and sCD student of the tiny study, released. Not to be changed."""
    from scaling.release.make import Options, release

    folder = tmp_path_factory.mktemp("released")
    return {m: release(finished.of(m), folder / m, Options(licence="CC-BY-4.0")).folder for m in ("teacher", "scd")}


def inputs(net: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    config = net.config  # pyright: ignore[reportAttributeAccessIssue]
    x = torch.randn(3, config.latent_channels, *[config.resolution] * 2, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.1, 1.1, 1.56]), torch.tensor([0, 3, 9])  # pyright: ignore[reportReturnType]


def test_a_release_computes_what_its_run_computes(finished: Fixture, released: dict[str, Path]) -> None:
    """Every bit of the average that the study scores, in float32."""
    from scaling.run.spec import load_run
    from scaling.weights.trained import load_network

    for method, folder in released.items():
        net = load_release(folder)
        found = checkpoint.load(finished.saved(method)[-1])
        spec = load_run(finished.of(method)).spec
        own = load_network(found, spec, torch.device("cpu"))
        assert torch.equal(net(*inputs(net)), own(*inputs(net)))
        assert not torch.equal(net(*inputs(net)), torch.zeros(3, 4, 8, 8))
        assert load_model(folder).description.run == spec


def test_the_folder_is_listed_and_made_again_byte_for_byte(
    finished: Fixture, released: dict[str, Path], tmp_path: Path, cli: Fixture
) -> None:
    result = cli("release", finished.of("scd"), "--to", tmp_path / "again", "--licence", "CC-BY-4.0", "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["sha256"] == load_model(released["scd"]).sha256
    files = {path.name: path.read_bytes() for path in released["scd"].iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files
    assert {CONFIG, WEIGHTS, SUMS} <= files.keys()
    listed = {line.split("  ")[1] for line in files[SUMS].decode().splitlines()}
    assert listed == files.keys() - {SUMS}
    assert subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=released["scd"], check=False).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_other_weights_of_a_run(finished: Fixture, tmp_path: Path, cli: Fixture) -> None:
    """Raw, of half precision in several files, of a width that was not kept (refused: there are no snapshots)."""
    home = finished.of("teacher")
    found = checkpoint.load(finished.saved("teacher")[-1])
    assert cli("release", home, "--to", tmp_path / "raw", "--raw").code == 0
    state = load_model(tmp_path / "raw").state()
    assert all(torch.equal(state[name], value) for name, value in found.part("model/").items())
    assert cli("release", finished.saved("teacher")[-1], "--to", tmp_path / "half", "--dtype", "bf16").code == 0
    half, whole = load_model(tmp_path / "half").state(), averaged_weights(found, 0.1)
    for name, value in whole.items():
        assert torch.equal(half[name], value if name.endswith(("freqs", "phases")) else value.bfloat16().float())
    result = cli("release", home, "--to", tmp_path / "other", "--sigma-rel", "0.2", "--raw")
    assert (result.code, "leave one out" in result.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "raw"]


def test_large_weights_are_split_and_loaded_together(
    finished: Fixture, released: dict[str, Path], tmp_path: Path
) -> None:
    from scaling.release.make import Options, release

    whole = load_model(released["teacher"])
    saved = release(finished.of("teacher"), tmp_path / "split", Options(licence="CC-BY-4.0", split=100_000))
    names = sorted(path.name for path in saved.folder.glob("*.safetensors"))
    assert names == [f"model-0000{n}-of-0000{len(names)}.safetensors" for n in range(1, len(names) + 1)]
    assert len(names) > 1
    assert max((saved.folder / name).stat().st_size for name in names) < 130_000
    index = json.loads((saved.folder / "model.safetensors.index.json").read_text())
    assert sorted({*index["weight_map"].values()}) == names
    state = saved.state()
    assert index["weight_map"].keys() == state.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in state.values())
    assert all(torch.equal(value, state[name]) for name, value in whole.state().items())
    assert saved.sha256 != whole.sha256


def test_a_release_is_sampled_alone(finished: Fixture, released: dict[str, Path], tmp_path: Path, cli: Fixture) -> None:
    """The samples that the run was judged by."""
    for method, steps in (("teacher", 3), ("scd", 2)):
        to = tmp_path / f"{method}.npz"
        result = cli("sample", released[method], "--to", to, "--seeds", "0-99", "--steps", steps)
        assert (result.code, result.err) == (0, "")
        with np.load(to) as made, np.load(finished.of(method) / "samples" / f"steps-{steps}.npz") as own:
            assert np.array_equal(made["images"], own["images"])
