#!/usr/bin/env bash
# submitit 1.5.4: inside `with executor.batch():` arguments are pickled when the block ends, not when submit is called.
# A configuration that is changed from one submit to the next reaches every job as it was last. A guess would be what
# submit does outside the block, where each job has the values of its own call. A sweep then runs one point many times
# under many names, and looks like a sweep without effect. Whoever changes a dict in a loop submits copies of it.
#
# Seen on 2026-12-01 with submitit 1.5.4 (executor "local"), Python 3.11:
#   one by one: [0.1, 0.2, 0.4]; in a batch: [0.4, 0.4, 0.4]
# Fails where the batch has the values of each call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check submitit==1.5.4
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib

import submitit

RATES = [0.1, 0.2, 0.4]
executor = submitit.AutoExecutor("logs", cluster="local")
executor.update_parameters(timeout_min=2)


def sweep(block):
    config = {}
    with block:
        jobs = []
        for config["lr"] in RATES:
            jobs.append(executor.submit(dict, config))
    return [job.result()["lr"] for job in jobs]


single, batch = sweep(contextlib.nullcontext()), sweep(executor.batch())
print(f"one by one: {single}; in a batch: {batch}")
assert single == RATES
assert batch == RATES[-1:] * 3, "each job has its own values now"
PYTHON
