#!/usr/bin/env bash
# webdataset 1.0.2: ShardWriter's maxsize counts the bytes of the samples and not what the tar adds to each: a header, a
# record of extended attributes by default, and padding to 512. A guess would be that shards stay near that many bytes.
# With small members, labels or captions beside latents kept elsewhere, a shard becomes hundreds of times as large; with
# small latents a few times. Whoever has a limit (a quota of inodes and bytes, an object store) sets maxcount instead.
#
# Seen on 2026-12-01 with webdataset 1.0.2, Python 3.11, maxsize 10,000 bytes:
#   bytes of a shard with members of 8 bytes: 2570240; of 512 bytes: 51200; of 4096 bytes: 20480
# Fails where the first shard of 8-byte members stays under ten times maxsize.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.3.5
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import webdataset as wds

LIMIT = 10_000
sizes = {}
for length in (8, 512, 4096):
    with wds.ShardWriter(f"{length}-%05d.tar", maxsize=LIMIT, verbose=0) as writer:
        for key in range(2 * LIMIT // length + 1):
            writer.write({"__key__": f"{key:06d}", "bin": bytes(length)})
    sizes[length] = Path(f"{length}-00000.tar").stat().st_size
print("bytes of a shard with members " + "; ".join(f"of {n} bytes: {size}" for n, size in sizes.items()))
assert sizes[8] > 10 * LIMIT, "headers count now"
PYTHON
