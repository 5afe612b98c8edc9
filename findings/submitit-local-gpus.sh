#!/usr/bin/env bash
# submitit 1.5.4: each job of the local executor with gpus_per_node=1 gets CUDA_VISIBLE_DEVICES=0, also while another
# one runs. A guess would be that jobs which run side by side share out the devices, as they would under a scheduler. A
# sweep of eight jobs on a machine of eight devices runs on the first and leaves seven idle, and may run out of memory
# there. Whoever starts several jobs gives each its own visible_gpus (a parameter of LocalExecutor), or waits for one at
# a time.
#
# Seen on 2026-12-01 with submitit 1.5.4 (executor "local"), Python 3.11, no device needed:
#   two jobs at the same time saw devices 0 and 0; with visible_gpus: 0 and 1
# Fails where jobs that run at the same time see different devices without being told.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check submitit==1.5.4
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import submitit


def seen(mine, other):
    """The devices of this job, said while the other one is there."""
    import os
    import pathlib
    import time

    pathlib.Path(mine).touch()
    while not pathlib.Path(other).exists():
        time.sleep(0.05)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def pair(name, *devices):
    jobs = []
    for index in range(2):
        executor = submitit.LocalExecutor("logs")
        executor.update_parameters(timeout_min=2, gpus_per_node=1, **(devices[index] if devices else {}))
        jobs.append(executor.submit(seen, f"{name}{index}", f"{name}{1 - index}"))
    return [job.result() for job in jobs]


default, told = pair("default"), pair("told", {"visible_gpus": (0,)}, {"visible_gpus": (1,)})
print(f"two jobs at the same time saw devices {' and '.join(default)}; with visible_gpus: {' and '.join(told)}")
assert told == ["0", "1"]
assert default == ["0", "0"], "devices are shared out now"
PYTHON
