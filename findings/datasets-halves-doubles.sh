#!/usr/bin/env bash
# datasets 5.2.0: with_format("numpy") gives float arrays of other precision as float32, whatever the column holds: a
# set of float64 statistics loses half its digits, float16 latents take twice the memory. A guess would be the precision
# that features names, as a float64 scalar column, or no format at all, has it. From a shard of webdataset to arrays the
# way is thus not exact, and nothing says so. Whoever needs the file's precision asks: with_format("numpy", dtype=...).
#
# Seen on 2026-12-01 with datasets 5.2.0, webdataset 1.0.2, numpy 2.3.5, Python 3.11:
#   in the shard float64; column float64; array float32, 1.5e-09 off; asked for: float64, 0.0e+00 off
# Fails where the array has the column's type without being asked.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 webdataset==1.0.2 numpy==2.3.5
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import datasets
import numpy as np
import webdataset as wds

stored = np.full((2, 3), 0.1)
with wds.TarWriter("one.tar") as writer:
    writer.write({"__key__": "0", "npy": stored})
datasets.disable_progress_bars()
table = datasets.load_dataset("webdataset", data_files="one.tar", split="train")
column = table.features["npy"].feature.feature.dtype
plain = table.with_format("numpy")[0]["npy"]
asked = table.with_format("numpy", dtype=np.float64)[0]["npy"]


def off(array):
    return float(np.abs(array.astype(np.float64) - stored).max())


print(f"in the shard {stored.dtype}; column {column}; array {plain.dtype}, {off(plain):.1e} off; "
      f"asked for: {asked.dtype}, {off(asked):.1e} off")
assert column == "float64"
assert np.array_equal(asked, stored)
assert plain.dtype == np.float32, "the column's type is kept now"
PYTHON
