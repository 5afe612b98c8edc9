"""A set of shards that several processes write, over several lives: what is done is kept, the manifest comes last.

While it is being made, its folder holds unfinished.json (what it will be), of each written shard the tar, its index and
shard-NNNNNN.json (what the manifest will say of it, and its tallies), and nothing half-written under a final name. A
shard is a pure function of the plan and its number, so neither kills nor the number of processes change a byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.content import hash_content
from data_pipeline.files import (
    clear_partials,
    fsync_folder,
    refuse_occupied,
    scratch_folder,
    write_json_atomic,
)
from data_pipeline.manifest import (
    FORMAT,
    MANIFEST_NAME,
    UNFINISHED_NAME,
    DataError,
    Manifest,
    ShardInfo,
    shard_name,
)
from data_pipeline.writer import checked_samples, require_safe, write_shard

NO_CONTENT = "0" * 64
LARGEST = "largest "  # tallies of which the largest counts; of all others the sum

Tallies = dict[str, float]  # what was counted while a shard was made


@dataclass(frozen=True)
class Plan:
    """What a set will be; `made` says how, and whatever else its bytes follow from."""

    dataset: str
    encoder: str
    shape: tuple[int, int, int]
    dtype: str
    moments: bool
    num_classes: int
    class_names: tuple[str, ...] | None
    samples: int
    samples_per_shard: int
    made: Mapping[str, Any]

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.samples // self.samples_per_shard)

    def span(self, shard: int) -> range:
        """The numbers of the samples of a shard."""
        first = shard * self.samples_per_shard
        return range(first, min(first + self.samples_per_shard, self.samples))

    def describe(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        return json.loads(json.dumps(asdict(self)))


def begin(folder: Path, plan: Plan) -> None:
    """Make the folder of a set, or find that it is this very one.

    Raises:
        FileExistsError: the folder holds something else, a finished set too.
        DataError: it holds an unfinished set of another plan; names what differs. A name with control characters.
        OSError: it cannot be written; names the file.
    """
    require_safe(plan.dataset, plan.encoder, *(plan.class_names or ()))
    path = folder / UNFINISHED_NAME
    if not path.exists():
        refuse_occupied(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, plan.describe())
    there, ours = read_plan(folder), plan.describe()
    if there != ours:
        raise DataError(
            f"{folder} holds an unfinished set that was begun otherwise: {_difference(there, ours)}: give the same "
            "arguments to continue it, or choose another folder"
        )


def read_plan(folder: Path) -> dict[str, Any]:
    """What `begin` wrote; DataError where it is damaged."""
    path = folder / UNFINISHED_NAME
    try:
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and isinstance(content.get("made"), dict):
            return content
    except (OSError, ValueError, RecursionError):
        pass
    raise DataError(f"{path} is damaged: remove {folder} and begin again")


def _difference(there: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The keys that differ, with both values."""
    flat = [{**each, **each["made"], "made": None} for each in (there, ours)]
    keys = [key for key in flat[1] if flat[0].get(key) != flat[1][key]]
    parts = [f"{key} was {flat[0].get(key)!r:.80}, now {flat[1][key]!r:.80}" for key in keys]
    return "; ".join(parts[:3]) or "by another version"


def finished(folder: Path, plan: Plan) -> Manifest | None:
    """The manifest of a folder that holds this very set, whole; None where it does not. DataError for a damaged one."""
    if not (folder / MANIFEST_NAME).exists():
        return None
    manifest, ours = Manifest.load(folder), plan.describe()
    made = {key: (manifest.made or {}).get(key) for key in plan.made}
    theirs = {**json.loads(json.dumps(asdict(manifest))), "made": made}
    same = all(theirs[key] == ours[key] for key in ours if key != "samples_per_shard")
    return manifest if same and len(manifest.shards) == plan.shards else None


def abandon(folder: Path) -> None:
    """Remove an unfinished set of which no shard was written; nobody else may be writing it."""
    if (folder / MANIFEST_NAME).exists() or any(folder.glob("shard-*.json")):
        return
    clear_partials(folder)
    for path in [*folder.glob("shard-*"), folder / UNFINISHED_NAME]:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # something else lies there
        folder.rmdir()


def record_path(folder: Path, shard: int) -> Path:
    """The file that says that a shard is written: shard-000000.json."""
    return folder / shard_name(shard).replace(".tar", ".json")


def missing(folder: Path, plan: Plan) -> list[int]:
    """The shards that are not written yet, or not all there any more."""
    return [shard for shard in range(plan.shards) if _record(folder, plan, shard) is None]


def _record(folder: Path, plan: Plan, shard: int) -> dict[str, Any] | None:
    """What a shard's record says, None where the shard must be written (again)."""
    try:
        record = json.loads(record_path(folder, shard).read_text("utf-8"))
        info = ShardInfo(**record["shard"])
        there = (folder / info.name).stat().st_size == info.bytes and (folder / info.index_name).exists()
        return record if there and info.samples == len(plan.span(shard)) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_part(
    folder: Path, plan: Plan, shard: int, samples: Iterable[tuple[np.ndarray, int]], tallies: Tallies
) -> None:
    """Write one shard, its index and its record, complete or not at all.

    samples: of `plan.span(shard)`, in order. tallies: counts that stand in the record once `samples` is exhausted.
    Raises DataError for a sample that is not as planned, OSError naming the file; nothing half-written remains.
    """
    span = plan.span(shard)
    checked = checked_samples(samples, plan.shape, plan.dtype, plan.num_classes, span.start)
    try:
        with scratch_folder(folder) as scratch:
            info = write_shard(checked, scratch, shard_name(shard), span.start)
            if info.samples != len(span):
                raise DataError(f"{folder / info.name}: {info.samples} samples came, {len(span)} were planned")
            for name in (info.name, info.index_name):
                (scratch / name).replace(folder / name)
            fsync_folder(folder)
    except OSError as error:  # of the scratch folder, whose name tells nothing
        raise OSError(error.errno, error.strerror, str(folder / shard_name(shard))) from error
    write_json_atomic(record_path(folder, shard), {"shard": asdict(info), "tallies": tallies})


def finish(folder: Path, plan: Plan, describe_tallies: Callable[[Tallies], Mapping[str, Any]]) -> Manifest:
    """Write the manifest of a set whose shards are all there, and clear what making it needed.

    Reads every sample once, against its checksum. `describe_tallies` turns the tallies of the whole set into what
    `made` says besides the plan. Raises DataError for damage.
    """
    records = [_record(folder, plan, shard) for shard in range(plan.shards)]
    shards = tuple(ShardInfo(**record["shard"]) for record in records if record is not None)
    if len(shards) < plan.shards:
        raise DataError(f"{folder}: {plan.shards - len(shards)} shards are missing: run the same command again")
    tallies: Tallies = {}
    for record in records:
        add_tallies(tallies, record["tallies"] if record else {})
    manifest = Manifest(
        format=FORMAT,
        dataset=plan.dataset,
        encoder=plan.encoder,
        shape=plan.shape,
        dtype=plan.dtype,
        num_classes=plan.num_classes,
        samples=plan.samples,
        shards=shards,
        content_sha256=NO_CONTENT,
        class_names=plan.class_names,
        moments=plan.moments,
        made={**plan.made, **describe_tallies(tallies)},
    )
    manifest = replace(manifest, content_sha256=hash_content(folder, manifest))
    manifest.save(folder)
    clear(folder)
    return manifest


def add_tallies(total: Tallies, more: Mapping[str, float]) -> None:
    """Take the tallies of one more part into the total."""
    for key, value in more.items():
        total[key] = max(total.get(key, value), value) if key.startswith(LARGEST) else total.get(key, 0) + value


def clear(folder: Path) -> None:
    """Remove what making a finished set needed."""
    if not (folder / MANIFEST_NAME).exists():
        return
    clear_partials(folder)
    for path in [*folder.glob("shard-*.json"), folder / UNFINISHED_NAME]:
        with suppress(FileNotFoundError):
            path.unlink()
