"""From a source of images to shards that were checked, and to the statistics of the real images.

`python -m scaling.data.sources` prints the channel statistics behind the constants of the embedded data set's encoder.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import RootModel

from data_pipeline.fashion import load_fashion
from data_pipeline.files import clear_partials
from data_pipeline.manifest import DataError, Manifest
from data_pipeline.opening import require_room
from data_pipeline.remote import Remote, address_of, is_remote, mirror
from data_pipeline.verify import verify
from data_pipeline.writer import write_shards
from models.encoders import Encoder, EncoderError, get_encoder
from models.vae import VaeFolder, find_vae, require_encoders
from scaling.config.encoders import known_encoder
from scaling.config.sections import EMBEDDED, MIXTURE, Data, Loading
from scaling.evaluation.mixture import MIXTURE_SHAPE, known_mixture
from scaling.run.home import read_model, sound, write_model
from scaling.run.locks import locked
from scaling.run.randomness import derive_seed
from scaling.run.spec import RunData, Window, run_data

BATCH = 1000
MIXTURE_SAMPLES = {"train": 20_000, "test": 1000}  # so many that a short study sees none of them twice
PACKING_SECONDS = 600.0  # how long another study is waited for that packs the embedded images


class Stamp(RootModel[dict[str, list[int]]]):
    """Size in bytes and time of change of every file of a folder of shards that was verified."""


log = logging.getLogger(__name__)

Notes = dict[Path, Stamp]  # by the files that they are to be written to


@dataclass(frozen=True)
class Prepared:
    """Shards that were verified, and their identity."""

    shards: Path
    held_out: Path
    data: RunData
    loading: Loading
    vae: Path | None = None  # the folder of the VAE that decodes, where one does


def prepare(data: Data, folder: Path) -> Prepared:
    """The shards of a study's data, verified. Raises DataError."""
    prepared = locate(data, folder)
    note(verify_changed(prepared, folder))
    return prepared


def locate(data: Data, folder: Path) -> Prepared:
    """The shards of a study's data, not verified: the embedded set is packed on first use, other folders are taken.

    Of remote folders a mirror without the shards is made. Raises DataError where they are none, or of another encoder
    or VAE; EncoderError for the folder of a VAE.
    """
    encoder, vae, loading = known_encoder(data.encoder, "data.encoder"), _find_vae(data), data.within(folder)
    if data.source == EMBEDDED:
        shards, held_out = (pack_fashion(split, encoder.name, folder / "data") for split in ("train", "test"))
    elif data.source == MIXTURE:
        shards, held_out = (pack_mixture(split, encoder, folder / "data") for split in ("train", "test"))
    else:
        assert data.held_out is not None, "checked on reading"
        shards, held_out = (_brought(source, loading) for source in (data.source, data.held_out))
    first, second = (of_encoder(path, encoder, vae) for path in (shards, held_out))
    identity = run_data(data, first.content_sha256, second.content_sha256, vae.sha256 if vae else None)
    require_room(shards, data.window_blocks, data.window_block, loading.cache_bytes)
    identity = identity.model_copy(update={"window": window_of(data, first)})
    return Prepared(shards, held_out, identity, loading, vae.path if vae else None)


def _find_vae(data: Data) -> VaeFolder | None:
    """The VAE that a study names; None where its encoder is a formula. EncoderError where it is another's."""
    encoder = known_encoder(data.encoder, "data.encoder")
    if data.vae is None:
        if encoder.vae is not None:
            raise EncoderError(f"data.vae: encoder {encoder.name!r} is a VAE: set data.vae to its folder")
        return None
    found = find_vae(data.vae)
    require_encoders(found, encoder)
    return found


def window_of(data: Data, manifest: Manifest) -> Window | None:
    """What a run's result depends on of the order of its samples; None for a full shuffle."""
    if not data.window_blocks:
        return None
    shards = None if data.window_block else repr([shard.samples for shard in manifest.shards])
    digest = shards and hashlib.sha256(shards.encode()).hexdigest()
    return Window(blocks=data.window_blocks, block=data.window_block, shards_sha256=digest)


def _brought(source: str, loading: Loading) -> Path:
    """A folder, or the mirror of a remote one."""
    if not is_remote(source):
        return Path(source)
    assert loading.cache is not None, "named by `within`"
    return mirror(Remote(source), loading.cache)


def pack_fashion(split: Literal["train", "test"], encoder: str, folder: Path) -> Path:
    """Shards of the embedded images as latents of that encoder; made where they are missing, by one study at a time."""

    def write(shards: Path) -> None:
        images, labels = load_fashion(split)
        pack_images(images[..., None], labels, get_encoder(encoder), shards, f"fashion-{split}", 10)

    return _packed(folder / f"fashion-{split}-{encoder}", write)


def pack_mixture(split: Literal["train", "test"], encoder: Encoder, folder: Path) -> Path:
    """Shards of draws from the mixture of known flow, as that encoder's latents; made as `pack_fashion` does."""

    def write(shards: Path) -> None:
        generator = torch.Generator().manual_seed(derive_seed("mixture", split))
        x0 = known_mixture().draw(MIXTURE_SAMPLES[split], generator).reshape(-1, *MIXTURE_SHAPE)
        latents = encoder.denormalize(x0).to(torch.float16).numpy()
        samples = ((latent, 0) for latent in latents)
        write_shards(samples, shards, dataset=f"mixture-{split}", encoder=encoder.name, num_classes=1)

    return _packed(folder / f"mixture-{split}", write)


def _packed(shards: Path, write: Callable[[Path], object]) -> Path:
    """The shards, which `write` makes where they are missing."""
    if (shards / "manifest.json").exists():
        return shards
    folder = shards.parent
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", PACKING_SECONDS):
        clear_partials(folder)
        if not (shards / "manifest.json").exists():  # else another study packed the same just now
            write(shards)
    return shards


class Images(Protocol):
    """Images uint8 [N, H, W, C], of which a part is an array: an array itself, or files that are read when needed."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def pack_images(
    images: Images,
    labels: np.ndarray,
    encoder: Encoder,
    folder: Path,
    dataset: str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
) -> Manifest:
    """Encode images uint8 [N, H, W, C] and write them as shards, unnormalised float16. EncoderError, DataError."""

    def samples() -> Iterator[tuple[np.ndarray, int]]:
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            latents = encoder.encode(torch.from_numpy(images[part])).to(torch.float16).numpy()
            yield from zip(latents, labels[part].tolist(), strict=True)

    return write_shards(
        samples(),
        folder,
        dataset=dataset,
        encoder=encoder.shards or encoder.name,
        num_classes=num_classes,
        class_names=class_names,
    )


def of_encoder(shards: Path, encoder: Encoder, vae: VaeFolder | None = None) -> Manifest:
    """The manifest of a folder of shards; DataError unless they hold latents of that encoder, made by that VAE."""
    manifest = Manifest.load(shards)
    if manifest.encoder != (encoder.shards or encoder.name):
        raise DataError(
            f"{shards}: holds latents of encoder {manifest.encoder!r}, but data.encoder is {encoder.name!r}: "
            "set data.encoder to the shards' own, or pack the images with the other"
        )
    made_by = (manifest.made or {}).get("vae_sha256")
    if vae is not None and made_by not in (None, vae.sha256):
        raise DataError(
            f"{shards}: a VAE with weights {made_by} made these latents, but data.vae {vae.path} has {vae.sha256}: "
            "name the folder of the VAE that made them"
        )
    return manifest


def verify_changed(prepared: Prepared, folder: Path) -> Notes:
    """Check every byte of the shards whose size or time changed since they were; DataError for damage.

    Not those of a remote folder: each of its shards is checked when it has arrived. With data.on_bad_shard: skip,
    damaged training shards are warned of.
    Returns the notes to be left once the study is not refused for anything else.
    """
    notes: Notes = {}
    hashes = (prepared.data.content_sha256, prepared.data.held_out_sha256)
    for shards, content in zip((prepared.shards, prepared.held_out), hashes, strict=True):
        if address_of(shards) is not None:
            continue
        state = Stamp({path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(shards.iterdir())})
        stamp = folder / "data" / f"verified-{content[:12]}.json"
        if sound(stamp, partial(read_model, stamp, Stamp)) != state:
            try:
                verify(shards)
                notes[stamp] = state
            except DataError as error:
                if prepared.loading.on_bad_shard == "stop" or shards == prepared.held_out:
                    raise
                log.warning("%s", error)
    return notes


def note(notes: Notes) -> None:
    """Write down what was verified, so that the next launch need not."""
    for stamp, state in notes.items():
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_model(stamp, state)


def channel_statistics(encoder: Encoder, images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel over images uint8 [N, H, W, C], in float64."""
    z = encoder.encode(torch.from_numpy(images)).double()
    return z.mean((0, 2, 3)).tolist(), z.std((0, 2, 3), correction=0).tolist()


def main() -> None:
    """Print the channel statistics of the embedded training images."""
    images, _ = load_fashion("train")
    mean, std = channel_statistics(get_encoder("fashion-s2d-v1"), images[..., None])
    print("mean", *(f"{value:.5f}" for value in mean))
    print("std", *(f"{value:.5f}" for value in std))


if __name__ == "__main__":
    main()
