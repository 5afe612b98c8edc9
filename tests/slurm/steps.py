"""A job that takes steps as a run does: it logs each, saves when told to end, and continues; `steps.py HOME STEPS`.

HOME/crash-at: the steps at which it dies with code 70; with HOME/crash-once, only once. HOME/deaf: it does not hear the
warning, as a step that takes longer than the warning leaves.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

home, steps = Path(sys.argv[1]), int(sys.argv[2])
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.05
told: list[int] = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    deaf = number == signal.SIGUSR2 and (home / "deaf").exists()
    signal.signal(number, signal.SIG_IGN if deaf else lambda number, _: told.append(number))
rank = os.environ.get("RANK", "0")
log = home / "metrics.jsonl"
step = len(log.read_text().splitlines()) if log.exists() else 0
print(
    f"rank {rank} on {os.uname().nodename} begins after {step} TOKEN={os.environ.get('WANDB_API_KEY', '')}", flush=True
)
(home / f"begun-{rank}").write_text(f"{os.getpid()}\n")
crashes = (home / "crash-at").read_text().split() if (home / "crash-at").exists() else []
while step < steps:
    if told:
        for number in (signal.SIGTERM, signal.SIGUSR2):  # an ending interpreter has no handlers any more
            signal.signal(number, signal.SIG_IGN)
        sys.exit(75)
    if str(step) in crashes:
        if (home / "crash-once").exists():
            (home / "crash-at").unlink()
        print("out of luck", flush=True)
        sys.exit(70)
    step += 1
    if rank == "0":
        with log.open("a") as stream:
            stream.write(json.dumps({"step": step}) + "\n")
    time.sleep(seconds)
