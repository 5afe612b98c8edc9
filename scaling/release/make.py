"""`trigscale release`: from a run to a folder that a stranger can load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.files import atomic_folder, refuse_occupied
from scaling.config.sections import Precision
from scaling.config.validation import ConfigError
from scaling.release.chosen import Chosen, Wanted, choose
from scaling.weights.folder import SPLIT, SavedModel, describe_network, load_model, write_sums, write_weights


@dataclass(frozen=True)
class Options:
    """What a user chose of a release."""

    wanted: Wanted = field(default_factory=Wanted)
    dtype: Precision = "fp32"
    licence: str | None = None
    unverified: bool = False
    split: int = SPLIT


def release(path: Path, to: Path, options: Options) -> SavedModel:
    """Write the release of a run or a checkpoint to a new folder; the same inputs give the same bytes.

    Raises ConfigError, CheckpointError, DataError, DamagedError or OSError, each naming the file; nothing half-written
    remains.
    """
    refuse_occupied(to)  # before a long work
    chosen = choose(path, options.wanted)
    if chosen.unverified and not options.unverified:
        raise ConfigError(_refusal(path, chosen))
    description = describe_network(
        chosen.config,
        chosen.encoder,
        run=chosen.spec,
        dtype=options.dtype,
        average=chosen.average,
        licence=options.licence,
        training=chosen.training,
        data=chosen.data,
        unverified=chosen.unverified,
    )
    with atomic_folder(to) as partial:
        write_weights(partial, description, chosen.state, shown=to, split=options.split)
        write_sums(partial)
    return load_model(to)


def _refusal(path: Path, chosen: Chosen) -> str:
    reasons = "\n".join(f"  {reason}" for reason in chosen.unverified)
    return (
        f"{path}: not all of its making can be verified:\n{reasons}\nName the folder of the run where it was trained, "
        "beside its data, or release it with --unverified, which the card then says"
    )
