#!/usr/bin/env bash
# safetensors 0.8.0: safetensors.numpy writes the memory of an array and the shape that the array shows. A transposed,
# Fortran-ordered or sliced array is read back with the right shape and its values in other places, without an error.
# A guess would be that what is saved is what is loaded, or an error such as safetensors.torch raises for such tensors.
# Whoever writes weights of other layouts, a [in, out] matrix as [out, in] say, calls np.ascontiguousarray first.
#
# Seen on 2026-12-01 with safetensors 0.8.0, numpy 2.3.5, Python 3.11:
#   transposed: wrong; Fortran order: wrong; every other column: wrong; contiguous copy: right
# Fails where one of the first three is right, or the last is wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

rows = np.arange(12, dtype=np.float32).reshape(3, 4)
arrays = {
    "transposed": rows.T,
    "Fortran order": np.asfortranarray(rows),
    "every other column": rows[:, ::2],
    "contiguous copy": np.ascontiguousarray(rows.T),
}
right = {}
for name, array in arrays.items():
    loaded = load(save({"a": array}))["a"]
    assert loaded.shape == array.shape
    right[name] = np.array_equal(loaded, array)
print("; ".join(f"{name}: {'right' if same else 'wrong'}" for name, same in right.items()))
assert [*right.values()] == [False, False, False, True], right
PYTHON
