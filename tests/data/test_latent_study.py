"""A study on latents of a VAE: what it trains on, that its samples are decoded, and that no other VAE gets in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_pipeline.manifest import DataError
from data_pipeline.reader import LatentReader
from models.encoders import EncoderError
from scaling.config.families import CONFIGS
from scaling.config.validation import ConfigError
from scaling.data.sources import locate
from scaling.evaluation.images.shards import ShardImages
from scaling.release.make import Options, release
from scaling.release.verify import verify_release
from scaling.run.home import RunHome
from scaling.run.randomness import device_normals
from scaling.run.samples import maker, read_samples
from scaling.run.spec import RunData, load_run
from scaling.sampling.decode import run_decoder
from scaling.study.checks import check_fit
from scaling.study.expand import expand
from scaling.study.launch import write_homes
from scaling.study.open import Study, open_study
from scaling.study.run import run_study
from scaling.training.batches import Batches
from scaling.training.sharding.world import World
from scaling.work import stages
from scaling.work.judging import draw_samples
from scaling.work.stopping import StopRequest
from slurm.graph import JobGraph
from tests.data.conftest import SIDE, save_vae

CPU = torch.device("cpu")
Cli = Callable[..., Any]


@pytest.fixture
def study(tmp_path: Path, encode: Cli, cli: Cli, vae: Path) -> Study:
    """A tiny teacher on the latents of the images, which are its held-out ones too."""
    assert encode(tmp_path / "shards", "--encoder", "pets-v1", "--new").code == 0
    assert cli("info", tmp_path / "shards", "--fit-encoder", tmp_path / "pets.yaml").code == 0
    nano = yaml.safe_load((CONFIGS / "family" / "nano.yaml").read_text())
    nano["common"] |= {"resolution": 4, "num_classes": 3, "attention_resolutions": [2]}
    (tmp_path / "family.yaml").write_text(yaml.safe_dump(nano))
    content = {
        "name": "latents",
        "family": str(tmp_path / "family.yaml"),
        "sizes": ["xs"],
        "methods": ["teacher"],
        "data": {
            "source": str(tmp_path / "shards"),
            "held_out": str(tmp_path / "shards"),
            "encoder": str(tmp_path / "pets.yaml"),
            "vae": str(vae),
        },
        "teacher": {"steps": 2, "batch": 8, "lr": 0.01, "lr_decay_steps": 1, "lr_rampup_images": 1},
        "sampling": {"teacher_steps": 2, "batch": 50},
        "evaluation": {"samples": 100},
        "launch": {"folder": str(tmp_path / "runs"), "device": "cpu", "grid_steps": 2},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return open_study(tmp_path / "study.yaml")


def home_of(study: Study) -> RunHome:
    prepared = locate(study.config.data, study.folder.parent)
    check_fit(study, prepared)
    (run,) = expand(study.config, study.family, prepared.data)
    study.folder.mkdir(parents=True)
    write_homes(study, [run], prepared, {"fashion": study.folder / "reference.npz"})
    return RunHome(study.folder / run.name)


def test_from_moments_to_decoded_samples(study: Study, vae: Path) -> None:
    home = home_of(study)
    config = load_run(home.path)
    assert config.vae == vae
    stages._train(config, home.path, World(0, 1, CPU), StopRequest())
    assert [path.name for path in home.grids.iterdir()] == ["step-00000002-2.png"]
    draw_samples(config, home, World(0, 1, CPU), StopRequest())
    samples = read_samples(home.sample(2), maker(home.name, 2))
    assert samples.images.shape == (100, SIDE, SIDE, 3)
    assert samples.images.std() > 0


def test_a_release_of_a_network_of_latents(study: Study, vae: Path, tmp_path: Path) -> None:
    """Its encoder is known by its constants and the hash of its VAE, which draws the picture and no other does."""
    home = home_of(study)
    stages._train(load_run(home.path), home.path, World(0, 1, CPU), StopRequest())
    saved = release(home.path, tmp_path / "to", Options())
    spec = load_run(home.path).spec
    assert saved.release.encoder == spec.data.pinned_encoder()
    found = verify_release(saved.folder, vae)
    assert found["grid"]["identical"]
    for wrong in (None, save_vae(tmp_path / "other", seed=1)):
        with pytest.raises(EncoderError):
            verify_release(saved.folder, wrong)
    card = (saved.folder / "README.md").read_text()
    assert "4x4 latents of 4 channels (encoder pets-v1)" in card
    assert "These weights were not judged." in card
    assert "latents = encoder.denormalize(x)" in card


def test_each_use_draws_its_own_latent(study: Study) -> None:
    """x0 = (mean + std eps - the channel's mean) sigma_data / the channel's std, eps from the place in the stream."""
    spec = load_run(home_of(study).path).spec
    reader, encoder = LatentReader(Path(study.config.data.source)), spec.data.latent_encoder()
    batches = Batches(spec, reader, World(0, 1, CPU), 0)
    (batch,) = batches.step(3)
    stored, _ = reader.read(batches.stream.order.indices(24, 8))
    mean, std = torch.from_numpy(stored).float().chunk(2, dim=1)
    eps = device_normals(spec.seed, "latent", 24, 8, 64, CPU).reshape(mean.shape)
    channel = torch.tensor([encoder.mean, encoder.std]).reshape(2, 1, 4, 1, 1)
    torch.testing.assert_close(batch.x0, (mean + std * eps - channel[0]) / channel[1] / 2)
    parts = [b.x0 for rank in (0, 1) for b in Batches(spec, reader, World(rank, 2, CPU), 2).step(3)]
    torch.testing.assert_close(torch.cat(parts), batch.x0)
    again = next(batches.step(3 + 40 // 8))
    assert not torch.equal(batch.x0.sort(0).values, again.x0.sort(0).values)


def test_real_images_are_the_decoded_means(study: Study, vae: Path) -> None:
    prepared = locate(study.config.data, study.folder.parent)
    decoder = run_decoder(prepared.data, vae, CPU)
    images = ShardImages(prepared.held_out, np.array([3, 30]), decoder)
    stored, expected = LatentReader(prepared.held_out).read(np.array([3, 30]))
    assert images.labels.tolist() == expected.tolist()
    np.testing.assert_array_equal(
        next(images.batches(2)), decoder.latents(torch.from_numpy(stored[:, :4]).float()).numpy()
    )


def test_another_vae_does_not_get_in(study: Study, tmp_path: Path, vae: Path) -> None:
    other = save_vae(tmp_path / "other", seed=1)
    data = study.config.data
    with pytest.raises(EncoderError, match="it is another VAE"):
        locate(data.model_copy(update={"vae": other}), tmp_path)
    with pytest.raises(EncoderError, match=r"data\.vae: encoder 'pets-v1' is a VAE: set data\.vae to its folder"):
        locate(data.model_copy(update={"vae": None}), tmp_path)
    with pytest.raises(EncoderError, match="it is another VAE"):
        run_decoder(load_run(home_of(study).path).spec.data, other, CPU)
    known = data.model_copy(update={"encoder": "sd-vae-ft-mse-v1"})
    with pytest.raises(DataError, match=r"holds latents of encoder 'pets-v1', but data\.encoder is 'sd-vae-ft-mse-v1'"):
        locate(known, tmp_path)


def test_a_run_is_known_by_its_encoders_constants_and_vae(study: Study, tmp_path: Path) -> None:
    """And runs of formulas by what they were known by before there were VAEs."""
    prepared = locate(study.config.data, study.folder.parent)
    (first,) = expand(study.config, study.family, prepared.data)
    path = Path(study.config.data.encoder)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"mean": [value + 0.01 for value in content["mean"]]}))
    (second,) = expand(study.config, study.family, locate(study.config.data, tmp_path).data)
    assert first.name != second.name
    formula = RunData(content_sha256="a", held_out_sha256="b", encoder="rgb-v1")
    assert formula.model_dump(mode="json") == {"content_sha256": "a", "held_out_sha256": "b", "encoder": "rgb-v1"}


BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "a known name": ({"name": "rgb-v1"}, "is the name of an encoder whose constants are known: take another"),
    "std of nothing": ({"std": [1.0, 0.0, 1.0, 1.0]}, "std.1: "),
    "one std too few": ({"std": [1.0, 1.0, 1.0]}, "std: has 3 values and mean 4"),
    "no VAE": ({"vae_sha256": None}, "vae_sha256: a map that is a VAE has one"),
    "no such map": ({"map": "jpeg"}, "map: "),
    "channels": ({"map": "rgb", "vae_sha256": None}, "mean: has 4 values, map rgb has 3 channels"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_encoder_files_that_are_refused(tmp_path: Path, kind: str) -> None:
    changes, said = BAD_FILES[kind]
    content = {"name": "x", "map": "vae", "vae_sha256": "0" * 64, "mean": [0.0] * 4, "std": [1.0] * 4} | changes
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=rf"(?s)x\.yaml:.*{said}"):
        open_study(CONFIGS / "study" / "fashion.yaml", [f"data.encoder={tmp_path / 'x.yaml'}"])


def test_a_study_that_is_not_judged_has_its_report(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """evaluation.metric none, from the shards to decoded samples in index.html, beside real images."""

    def run_here(graph: JobGraph, **_: Any) -> None:
        for job in graph.jobs.values():
            stages.run(Path(job.command[-1]), StopRequest())

    monkeypatch.setattr("scaling.study.run.run_local", run_here)
    study = open_study(tmp_path / "study.yaml", ["evaluation.metric=none", "launch.grid_steps=0"])
    assert run_study(study, "test") == 0
    (home,) = study.folder.glob("teacher-*")
    assert '"metrics": []' in (home / "scores.json").read_text()
    page = (study.folder / "report" / "index.html").read_text()
    assert "Samples of the largest size" in page
    assert (study.folder / "report" / "overview.png").exists()
    assert "FD-fashion" not in page
    assert (study.folder / "real.npz").exists()
    assert run_study(study, "again") == 0
