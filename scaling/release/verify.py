"""`trigscale release verify`: whether a folder still is what was released, as far as this machine can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.files import sha256_file
from models.release import CARD, CONFIG, GRID, SCORES, SUMS, ModelError, read_json, read_sums
from models.tensor_files import REMEDY
from scaling.release.grid import compare_grid, draw_grid
from scaling.run.devices import any_device
from scaling.weights.folder import load_model, sampled_as


def verify_all(folder: Path, vae: Path | None) -> list[dict[str, Any]]:
    """What was found of a release, or of each in the folder of a study. Raises as `verify_release`."""
    if (folder / CONFIG).exists() or not (folder / SUMS).exists():
        return [verify_release(folder, vae)]
    listed = rehash(folder)
    inside = sorted({Path(name).parts[0] for name in listed if "/" in name})
    if not inside:
        raise ModelError(f"{folder / SUMS}: lists no release: neither {CONFIG} nor a file in a folder; {REMEDY}")
    return [verify_release(folder / name, vae) for name in inside]


def verify_release(folder: Path, vae: Path | None) -> dict[str, Any]:
    """Hash every file, load the network, draw the card's picture again and compare it; what was found.

    vae: the folder of the VAE that decodes, of a network of latents. Raises ModelError or EncoderError naming the file.
    """
    listed = rehash(folder)
    if absent := [name for name in (CARD, SCORES) if name not in listed]:
        raise ModelError(f"{folder / absent[0]}: is not there: the folder holds weights, but is no release of them")
    read_json(folder / SCORES)
    saved = load_model(folder)
    network = saved.network(any_device())
    description = saved.description
    facts: dict[str, Any] = {"folder": str(folder), "files": len(listed), "sha256": saved.sha256, "grid": None}
    facts["unverified"] = list(description.unverified)
    if description.grid is not None:
        images = draw_grid(sampled_as(saved), network, description.grid, vae)
        facts["grid"] = compare_grid(folder, images, description.grid)
    return facts


def rehash(folder: Path) -> dict[str, str]:
    """The hashes of all files, found true; ModelError for one that is altered, missing or not listed."""
    listed = read_sums(folder)
    for name, sha256 in listed.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path}: no such file, and {SUMS} lists it: {REMEDY}")
        if sha256_file(path) != sha256:
            raise ModelError(f"{path}: its content does not match the hash in {SUMS}: it was altered; {REMEDY}")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not _is_plain_folder(path)}
    there -= {SUMS}
    if extra := sorted(there - listed.keys()):
        raise ModelError(f"{folder / extra[0]}: is not listed in {SUMS}: it is not part of the release; remove it")
    return listed


def _is_plain_folder(path: Path) -> bool:
    """Whether it is a folder of its own: what lies behind a link to one is not walked."""
    return path.is_dir() and not path.is_symlink()


def told(facts: dict[str, Any]) -> list[str]:
    """What was found, in words."""
    lines = [f"{facts['folder']}: {facts['files']} files are as they were written, and the network loads"]
    grid = facts["grid"]
    if grid is None:
        lines.append("it has no picture that could be drawn again")
    elif grid["identical"]:
        lines.append(f"its weights draw {GRID} again, every pixel the same")
    else:
        lines.append(
            f"its weights draw {GRID} again, but for rounding: pixels differ by {grid['largest_difference']} of 255 at "
            f"most, {grid['far_pixels']:.2%} by more than 1"
        )
    return [*lines, *(f"not verified when it was released: {line}" for line in facts["unverified"])]
