"""How the runs of a study are put on this machine: processes, devices, threads, and the strategy of each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipeline.files import write_text_atomic
from models.family import Family
from scaling.config.metrics import SpaceName
from scaling.config.sections import Launch, NetworkFiles
from scaling.config.study import StudyConfig
from scaling.data.sources import Prepared
from scaling.run.home import RunHome, clear_way
from scaling.run.spec import PlannedRun, RunFile, dump_run
from scaling.study.open import Study
from scaling.training.sharding.placement import strategy_of
from scaling.weights.hub import located
from slurm.ranks import LISTENER, TOLD_TO_RANKS

ROOT = Path(__file__).resolve().parents[2]
RANKS = re.compile(f"{TOLD_TO_RANKS}|{LISTENER}")


def launch_of(config: StudyConfig, family: Family, size: str) -> Launch:
    """How runs of one size are launched: with the strategy that its family names, unless the study names one."""
    strategy = strategy_of(config.launch.strategy, family, size, config.launch.devices)
    return config.launch.model_copy(update={"strategy": strategy})


def workers(config: StudyConfig, device: str) -> int:
    """How many runs at once: launch.workers, else one on GPUs, else as many as the cores hold."""
    launch = config.launch
    if launch.workers:
        return launch.workers
    return 1 if device == "cuda" else max(1, len(os.sched_getaffinity(0)) // (launch.threads * launch.devices))


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker: ours, with the threads of all libraries bounded and this checkout importable.

    What says which rank of another job this process is does not reach the workers. Nor does anything that would let
    them import from the current folder, where a stranger's file may have the name of a library's module.
    """
    kept = {name: value for name, value in os.environ.items() if not RANKS.fullmatch(name)}
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(path).is_absolute()]
    bounds = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**kept, **bounds, "PYTHONPATH": os.pathsep.join([str(ROOT), *paths]), "PYTHONSAFEPATH": "1"}


def write_homes(
    study: Study, runs: Sequence[PlannedRun], prepared: Prepared, references: Mapping[SpaceName, Path]
) -> None:
    """The home folder of each run with its config.yaml."""
    guides = {size: study.config.teacher_of(size).guide or Path() for size in study.config.sizes}
    homes = {run.spec.identity(): (study.folder / run.name).resolve() for run in runs}
    for run in runs:
        home = RunHome(study.folder / run.name)
        home.path.mkdir(exist_ok=True)
        for path in (home.config, home.log):
            clear_way(path)
        content = RunFile(
            study=study.config.name,
            identity=run.spec.identity(),
            spec=run.spec,
            shards=prepared.shards.resolve(),
            references={space: path.resolve() for space, path in references.items()},
            networks=_resolved(study.config.evaluation.files),
            teacher_home=homes[run.spec.teacher] if run.spec.teacher else None,
            student_home=homes[run.spec.student] if run.spec.student else None,
            weights=run.weights.resolve() if run.weights else None,
            guide=located(guides[run.spec.size]).folder.resolve() if run.spec.guide else None,
            vae=prepared.vae.resolve() if prepared.vae else None,
            loading=study.config.data.within(study.config.launch.folder),
            launch=launch_of(study.config, study.family, run.spec.size),
        )
        write_text_atomic(home.config, dump_run(content))


def _resolved(files: NetworkFiles) -> NetworkFiles:
    """The same by absolute paths."""
    named = {key: getattr(files, key) for key in NetworkFiles.model_fields}
    return NetworkFiles(**{key: path and path.resolve() for key, path in named.items()})
