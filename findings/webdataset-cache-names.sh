#!/usr/bin/env bash
# webdataset 1.0.2: with cache_dir, the copy of a shard at an http address is filed under the last part of its path
# alone. Two sets whose shards are both called 00000.tar share a copy: whichever was read first is what the other
# returns, in later processes too. A guess would be that the address is the key, as it is for addresses of the kind
# pipe:. Whoever keeps train/ and val/ side by side gives each a cache_dir of its own, or puts the set's name into that
# of the shard.
#
# Seen on 2026-12-01 with webdataset 1.0.2, Python 3.11, two shards on a server of this script:
#   labels in train/00000.tar: [0, 1, 2]; in val/00000.tar: [0, 1, 2], though it holds [100, 101, 102]
# Fails where the second shard is read as it is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.3.5
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import functools
import http.server
import threading
from pathlib import Path

import webdataset as wds


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


stored = {"train": [0, 1, 2], "val": [100, 101, 102]}
for name, labels in stored.items():
    Path(name).mkdir()
    with wds.TarWriter(f"{name}/00000.tar") as writer:
        for key, label in enumerate(labels):
            writer.write({"__key__": str(key), "cls": label})

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory="."))
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
Path("cache").mkdir()


def read(name, **cache):
    shard = wds.WebDataset(f"{address}/{name}/00000.tar", shardshuffle=False, **cache)
    return [sample["cls"] for sample in shard.decode()]


assert [read(name) for name in stored] == [*stored.values()], "without a cache they are right"
train, val = (read(name, cache_dir="cache") for name in stored)
print(f"labels in train/00000.tar: {train}; in val/00000.tar: {val}, though it holds {stored['val']}")
assert train == stored["train"]
assert val == train, "the cache tells them apart now"
PYTHON
