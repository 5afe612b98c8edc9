#!/usr/bin/env bash
# webdataset 1.0.2: floats in 0..1 that are written under `png` are cut down to whole levels, not rounded, and the
# decoder "rgb" gives floats of such levels back: a set that is read, written and read again loses half a level of
# brightness a round trip when anything moved it by a rounding. A guess would be rounding, as with tools that undo
# x / 127.5 - 1. Whoever writes samples of a network rounds to uint8 before; half a level is what an FID can see.
#
# Seen on 2026-12-01 with webdataset 1.0.2, numpy 2.3.5, pillow 12.0.0, Python 3.11:
#   65,536 uniform values: mean error -0.50 levels as floats, +0.00 rounded before; 0.999 becomes 254
# Fails where the mean error of floats is under a quarter of a level.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.3.5 pillow==12.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import webdataset as wds

image = np.random.default_rng(0).random((256, 256))
image[0, 0] = 0.999


def stored(array):
    with wds.TarWriter("one.tar") as writer:
        writer.write({"__key__": "0", "png": array})
    return next(iter(wds.WebDataset("one.tar", shardshuffle=False).decode("rgb8")))["png"][..., 0]


cut, rounded = stored(image), stored((image * 255).round().astype(np.uint8))
floats, levels = (float((made - image * 255).mean()) for made in (cut, rounded))
print(f"{image.size:,} uniform values: mean error {floats:+.2f} levels as floats, {levels:+.2f} rounded before; "
      f"0.999 becomes {cut[0, 0]}")
assert abs(levels) < 0.01
assert floats < -0.25, "floats are rounded now"
PYTHON
