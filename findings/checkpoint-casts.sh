#!/usr/bin/env bash
# torch 2.13.0: torch.distributed.checkpoint loads into tensors of another type by a plain cast: 2.7 becomes 2, 300
# becomes 44 in uint8, without a word, while another shape is an error. A guess would be an error for both, or a warning
# where values are lost. A counter or an image that was made a float in one version of a program, and is an integer in
# the next, is damaged on resuming; weights saved in float32 arrive rounded in a bfloat16 network. Compare the types
# that the checkpoint's metadata names before loading.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, Python 3.11, saved [2.7, 300.0, 1.001] as float32:
#   into uint8: [2, 44, 1]; into bfloat16: [2.703125, 300.0, 1.0]; into another shape: CheckpointException
# Fails where a load into uint8 raises or keeps the values.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile
import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

warnings.filterwarnings("ignore", message=".*single process.*")
saved = torch.tensor([2.7, 300.0, 1.001])


def load(into):
    dcp.load({"a": into}, checkpoint_id=folder)
    return into.tolist()


with tempfile.TemporaryDirectory() as folder:
    dcp.save({"a": saved}, checkpoint_id=folder)
    bytes_, halves = load(torch.zeros(3, dtype=torch.uint8)), load(torch.zeros(3, dtype=torch.bfloat16))
    try:
        shape = load(torch.zeros(1, 3))
    except CheckpointException as error:
        shape = type(error).__name__
print(f"into uint8: {bytes_}; into bfloat16: {halves}; into another shape: {shape}")
assert shape == "CheckpointException"
assert bytes_ == [2, 44, 1], "another type is no plain cast now"
PYTHON
