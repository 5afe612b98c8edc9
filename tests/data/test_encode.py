"""Images to latents: what is stored, that it is the VAE's own, and that kills and processes change no byte."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data_pipeline.manifest import Manifest
from data_pipeline.pictures import centre_crop
from data_pipeline.reader import LatentReader
from data_pipeline.sources.find import find_source
from data_pipeline.verify import verify
from models.encoders import get_encoder
from models.vae import find_vae, open_decoder, open_vae
from scaling.data.encode import Job
from scaling.data.encode_run import encode as encode_job
from tests.data.conftest import SIDE, save_vae

Encode = Callable[..., Any]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path, vae: Path) -> Path:
    """The set as one undisturbed process writes it."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    job(images, vae, folder)
    return folder


def job(images: Path, vae: Path, folder: Path, samples_per_shard: int = 32) -> Manifest | None:
    made = Job(find_source(images), find_vae(vae), -1.0, "sd-vae-ft-mse-v1", SIDE, False)
    return encode_job(made, folder, samples_per_shard, 1, "cpu")


def test_latents_are_the_vaes_own_moments(whole: Path, images: Path, vae: Path) -> None:
    """diffusers' own calls on each image alone, against what float16 and the order of sums allow."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False)
    reader = LatentReader(whole)
    arrays, labels = reader.read(np.arange(40))
    manifest = reader.manifest
    assert (manifest.shape, manifest.moments, manifest.latent_shape) == ((8, 4, 4), True, (4, 4, 4))
    assert (manifest.class_names, manifest.dataset) == (("cat", "dog", "emu"), "pets")
    paths = sorted(images.rglob("*.png"))
    assert labels.tolist() == [["cat", "dog", "emu"].index(path.parent.name) for path in paths]
    for number in (0, 31, 32, 39):
        pixels = np.asarray(centre_crop(Image.open(paths[number]), SIDE))
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            posterior = model.encode(x).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        expected = torch.cat([posterior.mean, posterior.std], 1)[0].numpy()
        np.testing.assert_allclose(arrays[number], expected, rtol=1e-3, atol=1e-5)
    assert manifest.made is not None
    assert 1e-5 < manifest.made["float16_error"] < 2**-11
    verify(whole)


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    tmp_path: Path, images: Path, vae: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while the first shard is read, between shards, and in the middle of the second."""
    folder = tmp_path / "shards"
    for images_seen, written in ((0, 0), (32, 0), (40, 1)):
        process = multiprocessing.get_context("fork").Process(target=dying, args=(images, vae, folder, images_seen))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (folder / "manifest.json").exists()
        assert len(list(folder.glob("shard-*.json"))) == written
        with pytest.raises(Exception, match=f"unfinished, {written} shards are written: the command that began it"):
            LatentReader(folder)
    job(images, vae, folder)
    assert files(folder) == files(whole)


def dying(images: Path, vae: Path, folder: Path, after: int) -> None:
    """Encode, and be killed once so many images were encoded in this life or an earlier one."""
    from scaling.data import encode as module

    done = 32 * len(list(folder.glob("shard-*.json")))
    collect = module._collect

    def collecting(job: Job, group: Any, *rest: Any) -> Any:
        nonlocal done
        for count, pair in enumerate(collect(job, group, *rest)):
            if done + count >= after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair
        done += len(group.numbers)
        if done >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    module._collect = collecting
    torch.set_num_threads(1)
    job(images, vae, folder)


def test_tasks_share_the_work(tmp_path: Path, whole: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun and srun start them, in any order; the last writes the manifest."""
    for rank, names in (("1", ("RANK", "WORLD_SIZE")), ("0", ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))):
        with monkeypatch.context() as patch:
            patch.setenv(names[0], rank)
            patch.setenv(names[1], "2")
            result = encode(tmp_path / "shards")
        assert result.code == 0, result.err
        assert ("others are at work" in result.out) == (rank == "1")
    assert files(tmp_path / "shards") == files(whole)


@pytest.mark.nightly
def test_processes_share_the_work(tmp_path: Path, whole: Path, encode: Encode, images: Path) -> None:
    """And where one cannot go on, neither do the others, and its error is told."""
    assert encode(tmp_path / "shards", "--processes", 2).code == 0
    assert files(tmp_path / "shards") == files(whole)
    shutil.copytree(images, tmp_path / "bad")
    (tmp_path / "bad" / "cat" / "00.png").write_bytes(b"no image")
    result = encode(tmp_path / "to", "--processes", 2, source=tmp_path / "bad")
    assert (result.code, "cat/00.png cannot be read as an image" in result.err) == (2, True), result.err


def test_content_does_not_depend_on_the_size_of_shards(tmp_path: Path, images: Path, vae: Path, whole: Path) -> None:
    made = job(images, vae, tmp_path / "shards", 64)
    assert made is not None
    assert len(made.shards) == 1
    assert made.content_sha256 == Manifest.load(whole).content_sha256


def test_mirror_images_are_encoded_since_latents_cannot_be_flipped(
    tmp_path: Path, whole: Path, images: Path, vae: Path, encode: Encode
) -> None:
    """Every second sample is what the VAE makes of the mirror image, and far from the mirrored latent."""
    assert encode(tmp_path / "shards", "--mirror").code == 0
    arrays, labels = LatentReader(tmp_path / "shards").read(np.arange(80))
    plain, plain_labels = LatentReader(whole).read(np.arange(40))
    np.testing.assert_allclose(arrays[::2], plain, rtol=2e-3, atol=1e-3)
    assert labels[::2].tolist() == labels[1::2].tolist() == plain_labels.tolist()
    path = sorted(images.rglob("*.png"))[5]
    mirrored = np.asarray(centre_crop(Image.open(path), SIDE))[:, ::-1].copy()
    opened = open_vae(find_vae(vae), -1.0, torch.device("cpu"))
    expected = opened.moments(torch.from_numpy(mirrored)[None]).numpy()[0]
    np.testing.assert_allclose(arrays[11], expected, rtol=1e-3, atol=1e-3)
    flipped = plain[..., ::-1].astype(np.float32)
    error = (
        np.square(arrays[1::2] - flipped).mean() / np.square(flipped - flipped.mean((0, 2, 3), keepdims=True)).mean()
    )
    assert error > 0.05


def test_another_set_in_the_folder_is_refused(tmp_path: Path, encode: Encode, images: Path, vae: Path) -> None:
    """Unfinished, of another encoder or size; and finished."""
    folder = tmp_path / "shards"
    assert encode(folder).code == 0
    before = files(folder)
    assert "40 samples in 2 shards" in encode(folder).out
    assert "exists and is not an empty folder" in encode(folder, "--mirror").err
    assert files(folder) == before
    made = Job(find_source(images), find_vae(vae), -1.0, "sd-vae-ft-mse-v1", SIDE, False)
    from data_pipeline.parts import begin

    begin(tmp_path / "begun", made.plan(32))
    for words, said in (
        (("--encoder", "edm2-sd-vae-v1"), "encoder was 'sd-vae-ft-mse-v1', now 'edm2-sd-vae-v1'"),
        (("--size", 32), "image_side was 16, now 32"),
    ):
        result = encode(tmp_path / "begun", *words)
        assert (result.code, said in result.err, "choose another folder" in result.err) == (2, True, True), result.err


def test_what_the_real_weights_call_their_attention(tmp_path: Path, vae: Path) -> None:
    """Stable Diffusion's files carry the names of an older diffusers."""
    folder = tmp_path / "old"
    shutil.copytree(vae, folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(path).items():
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        tensors[name] = tensor
    assert any("proj_attn" in name for name in tensors)
    path.unlink()
    save_file(tensors, path, {"format": "pt"})
    images = torch.randint(256, (1, SIDE, SIDE, 3), dtype=torch.uint8)
    ours, theirs = (open_vae(find_vae(each), -1.0, torch.device("cpu")).moments(images) for each in (folder, vae))
    assert torch.equal(ours, theirs)


def test_decoding_is_the_vaes_own(vae: Path) -> None:
    """Networks' samples to images, in the pixel range of each encoder."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    model: Any = AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False)
    x = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    for name, low in (("sd-vae-ft-mse-v1", -1.0), ("edm2-sd-vae-v1", 0.0)):
        encoder = get_encoder(name)
        images = open_decoder(encoder, vae, torch.device("cpu")).samples(x)
        with torch.no_grad():
            out = model.decode(encoder.denormalize(x)).sample
        expected = ((out - low) / (1 - low) * 255).clamp(0, 255).permute(0, 2, 3, 1)
        assert images.shape == (3, SIDE, SIDE, 3)
        assert (images.float() - expected).abs().max() <= 0.5 + 1e-3


BAD_VAES: dict[str, tuple[dict[str, Any], str]] = {
    "other latent width": ({"latent_channels": 8}, "latent_channels is 8, but encoder 'sd-vae-ft-mse-v1' has 4"),
    "other scaling": ({"scaling_factor": 0.13025}, "scaling_factor is 0.13025, but that of encoder"),
    "other class": ({"_class_name": "AutoencoderTiny"}, "_class_name is 'AutoencoderTiny', expected 'AutoencoderKL'"),
    "grey": ({"in_channels": 1}, "in_channels is 1, expected 3"),
    "shifted": ({"shift_factor": 0.1}, "shift_factor is 0.1"),
}


@pytest.mark.parametrize("kind", BAD_VAES)
def test_other_vaes_are_refused(tmp_path: Path, vae: Path, encode: Encode, kind: str) -> None:
    changes, said = BAD_VAES[kind]
    config = json.loads((vae / "config.json").read_text()) | changes
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    os.link(vae / "diffusion_pytorch_model.safetensors", tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    result = encode(tmp_path / "to", folder=tmp_path / "vae")
    assert (result.code, said in result.err) == (2, True), result.err
    assert not (tmp_path / "to").exists()


def test_folders_that_hold_no_vae(tmp_path: Path, vae: Path, encode: Encode) -> None:
    assert "config.json does not exist" in encode(tmp_path / "to", folder=tmp_path).err
    (tmp_path / "config.json").write_text((vae / "config.json").read_text())
    assert "a VAE needs its weights" in encode(tmp_path / "to", folder=tmp_path).err
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02")
    assert "diffusion_pytorch_model.bin, a pickle, which is not read" in encode(tmp_path / "to", folder=tmp_path).err
    tensors = load_file(vae / "diffusion_pytorch_model.safetensors")
    tensors.pop("decoder.conv_out.bias")
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    assert "missing 'decoder.conv_out.bias'" in encode(tmp_path / "to", folder=tmp_path).err
    assert "unknown encoder 'sd-vae'" in encode(tmp_path / "to", "--encoder", "sd-vae").err
    assert "does not divide by 4" in encode(tmp_path / "to", "--size", 18).err
    assert not (tmp_path / "to").exists()


def test_a_full_disk_names_the_shard_and_leaves_nothing_half_written(
    tmp_path: Path, images: Path, vae: Path, whole: Path
) -> None:
    folder = tmp_path / "shards"
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=overflowing, args=(images, vae, folder, told))
    process.start()
    assert told.get(timeout=100).endswith("shards/shard-000000.tar")
    process.join()
    assert list(tmp_path.iterdir()) == []
    job(images, vae, folder)
    assert files(folder) == files(whole)


def overflowing(images: Path, vae: Path, folder: Path, told: Any) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    torch.set_num_threads(1)
    try:
        job(images, vae, folder)
    except OSError as error:
        told.put(str(error.filename))


def test_an_unreadable_image_is_named(tmp_path: Path, images: Path, encode: Encode) -> None:
    shutil.copytree(images, tmp_path / "bad")
    (tmp_path / "bad" / "dog" / "13.png").write_bytes((images / "dog" / "13.png").read_bytes()[:200])
    result = encode(tmp_path / "to", source=tmp_path / "bad")
    assert (result.code, "dog/13.png cannot be read as an image" in result.err) == (2, True), result.err
    assert not (tmp_path / "to").exists()


def test_a_new_encoder_is_measured_and_named(tmp_path: Path, images: Path, encode: Encode, cli: Any, vae: Path) -> None:
    """encode --new, then info --fit-encoder: networks see mean 0 and standard deviation 0.5 in each channel."""
    from scaling.config.encoders import known_encoder

    assert encode(tmp_path / "shards", "--encoder", "pets-v1", "--new").code == 0
    assert cli("info", tmp_path / "shards", "--fit-encoder", tmp_path / "pets.yaml").code == 0
    encoder = known_encoder(str(tmp_path / "pets.yaml"), "data.encoder")
    assert (encoder.name, encoder.vae and encoder.vae.sha256) == ("pets-v1", find_vae(vae).sha256)
    mean, std = np.split(LatentReader(tmp_path / "shards").read(np.arange(40))[0].astype(np.float64), 2, axis=1)
    noise = np.random.Generator(np.random.Philox(1)).standard_normal((400, *mean.shape))
    drawn = torch.from_numpy((mean + std * noise).reshape(-1, 4, 4, 4))
    x = encoder.normalize(drawn)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(4, dtype=x.dtype), atol=2e-3, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.full((4,), 0.5, dtype=x.dtype), atol=2e-3, rtol=0)
    stats = json.loads(cli("stats", tmp_path / "shards", "--json").out)
    np.testing.assert_allclose(stats["mean"], encoder.mean, rtol=1e-5)
    result = encode(tmp_path / "again", "--encoder", tmp_path / "pets.yaml", folder=save_vae(tmp_path / "vae", seed=1))
    assert "it is another VAE" in result.err
    assert "has constants already" in cli("info", shards_of(encode, tmp_path), "--fit-encoder", tmp_path / "x.yaml").err


def shards_of(encode: Encode, folder: Path) -> Path:
    assert encode(folder / "known").code == 0
    return folder / "known"
