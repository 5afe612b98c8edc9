#!/usr/bin/env bash
# safetensors 0.8.0: the same tensors with the same metadata are written as other bytes from one call to the next, where
# the metadata has more than one key. A guess would be that equal input gives equal files, or keys in the order given.
# Whoever publishes hashes of such files needs one key, or must sort the header anew; releases of trigscale carry one.
#
# Seen on 2026-11-30 with safetensors 0.8.0, numpy 2.3.5, Python 3.11:
#   50 calls with three keys: 6 different files; with one key: 1
# 6 are all orders of three keys. Fails where 50 calls with three keys give one file, or those with one key several.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import save

tensors = {"a": np.zeros(2, np.float32)}
several = {save(tensors, {"one": "1", "two": "2", "three": "3"}) for _ in range(50)}
single = {save(tensors, {"one": "1"}) for _ in range(50)}
print(f"50 calls with three keys: {len(several)} different files; with one key: {len(single)}")
assert len(several) > 1, "equal metadata gives equal files now"
assert len({len(file) for file in several}) == 1, "they differ in more than an order"
assert len(single) == 1, "one key gives several files"
PYTHON
