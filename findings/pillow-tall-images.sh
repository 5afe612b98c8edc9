#!/usr/bin/env bash
# pillow 13.0.0: tall images are resized to other bytes than by pillow 12.0.0; square and wide ones to the same. A guess
# would be that a filter with integer arithmetic, unchanged for years and the ruler's own in `clean` FIDs, gives equal
# bytes from version to version; it rounds between the two passes, and so their order shows. Whoever compares hashes of
# prepared images, or a distance with one of last year, writes the version down or crops to a square before resizing.
#
# Seen on 2026-12-01 with pillow 12.0.0 and 13.0.0, numpy 2.3.5, Python 3.11:
#   bicubic to a quarter, values that differ: 640x640 0, 160x640 (wide) 0, 640x160 (tall) 2880 of 19200, by 1 level
# Fails where tall images agree, or others do not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 12.0.0 13.0.0; do
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --target "$folder/$version" pillow==$version numpy==2.3.5
    PYTHONPATH="$folder/$version" "$folder/venv/bin/python" - "$folder/$version.npz" <<'PYTHON'
import sys

import numpy as np
from PIL import Image

shapes = {"square": (640, 640), "wide": (160, 640), "tall": (640, 160)}
made = {}
for name, (height, width) in shapes.items():
    pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    made[name] = np.asarray(Image.fromarray(pixels).resize((width // 4, height // 4), Image.Resampling.BICUBIC))
np.savez(sys.argv[1], **made)
PYTHON
done
PYTHONPATH="$folder/13.0.0" "$folder/venv/bin/python" - "$folder/12.0.0.npz" "$folder/13.0.0.npz" <<'PYTHON'
import sys

import numpy as np

old, new = (np.load(path) for path in sys.argv[1:])
apart = {name: np.abs(old[name].astype(int) - new[name]) for name in old.files}
count = {name: int((each > 0).sum()) for name, each in apart.items()}
print(f"bicubic to a quarter, values that differ: 640x640 {count['square']}, 160x640 (wide) {count['wide']}, "
      f"640x160 (tall) {count['tall']} of {apart['tall'].size}, by {apart['tall'].max()} level")
assert count["square"] == count["wide"] == 0, count
assert count["tall"] > 0, "tall images agree"
PYTHON
