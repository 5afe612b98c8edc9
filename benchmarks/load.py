"""What does loading a release take, in time and in memory of the host, at the true size XXL?

    python benchmarks/load.py FOLDER [--size SIZE] [--ranks N] [--rounds N]

Writes random weights of img512's SIZE (XXL: 1.52 billion parameters, 6.1 GB in float32) as a release and by torch.save
into FOLDER, which wants 13 GB of disk, and takes them away again. Each measurement is a process of its own that imports
first; files are in the page cache.

    time    until a network on the CPU holds the weights in memory of its own, processor seconds (user and system), in
            alternating rounds, medians: read_release(...).load_into; safetensors' load_file, torch.load (weights_only),
            each copied into the network (load_file maps the file, and torch.load's tensors would do with assign=True,
            which is shown too); beside them load_release, which also checks the SHA-256 of all
    memory  the most that a rank's resident set grew from before the network was made to after it was loaded, over what
            the rank holds in the end (its share) plus the largest tensor: N ranks of FSDP2 made on the meta device, and
            of ZeRO-3 made under deepspeed.zero.Init

Prints tables and writes them to benchmarks/results/load-cpu.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from models import load_release, read_release
from models.encoders import SD_VAE_FT_MSE
from models.trigflow import TrigFlowNet
from scaling.config.families import load_family
from scaling.study.machine import machine
from scaling.weights.folder import describe_network, save_model

RESULT = Path(__file__).parent / "results" / "load-cpu.md"
GB = 1e9
Loader = Callable[[Path, TrigFlowNet], Any]


def of_release(folder: Path, net: TrigFlowNet) -> None:
    """Read each tensor into the memory of the network."""
    read_release(folder / "release").load_into(net)


def of_safetensors(folder: Path, net: TrigFlowNet) -> None:
    """Map the files and copy."""
    from safetensors.torch import load_file

    for path in sorted((folder / "release").glob("*.safetensors")):
        net.load_state_dict(load_file(path), strict=False)


def of_torch(folder: Path, net: TrigFlowNet) -> None:
    """Read another copy, then copy that."""
    net.load_state_dict(torch.load(folder / "state.pt", weights_only=True))


def of_torch_assigned(folder: Path, net: TrigFlowNet) -> None:
    """Read what becomes the network's memory."""
    net.load_state_dict(torch.load(folder / "state.pt", weights_only=True), assign=True)


def checked(folder: Path, net: TrigFlowNet) -> None:
    """What a stranger calls."""
    load_release(folder / "release")


LOADERS: dict[str, tuple[str, Loader]] = {
    "release": ("read_release(...).load_into(net)", of_release),
    "safetensors": ("load_file, copied into net", of_safetensors),
    "torch": ("torch.load, copied into net", of_torch),
    "torch-assigned": ("torch.load, assigned to a net on meta", of_torch_assigned),
    "checked": ("load_release(...), every hash", checked),
}


def timed(folder: Path, size: str, name: str) -> dict[str, float]:
    """Seconds of the processor and of the clock of one way to load."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        net = TrigFlowNet(load_family("img512").size(size))
    if name not in ("torch-assigned", "checked"):
        net = net.to_empty(device="cpu")
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    LOADERS[name][1](folder, net)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor": spent, "wall": seconds}


def resident() -> tuple[int, int]:
    """Bytes that are resident, and the most since `reset`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, most = (int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, most


def sharded(folder: Path, size: str, strategy: str) -> dict[str, int]:
    """What one rank holds, and by how much its resident set grew at most while it made and loaded its network."""
    from models.sharded import local_runs
    from scaling.training.sharding.world import joined

    torch.set_num_threads(1)
    config = load_family("img512").size(size)
    with joined(torch.device("cpu")) as world:
        make = _fsdp if strategy == "fsdp2" else _zero
        make(load_family("nano").size("xs"), world)  # what is imported and set up once is not weights
        world.barrier()
        Path("/proc/self/clear_refs").write_text("5")  # the most since now
        before, _ = resident()
        net = make(config, world)
        read_release(folder / "release").load_into(net)
        _, most = resident()
        share = sum(run.local.nbytes for run in local_runs(net).values())
        largest = max(stored_bytes(stored.shape) for stored in read_release(folder / "release").tensors.values())
        world.barrier()
        return {"share": share, "grew": most - before, "largest": largest}


def stored_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in float32."""
    return 4 * torch.Size(shape).numel()


def _fsdp(config: Any, world: Any) -> TrigFlowNet:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from models.unet import Block

    with torch.device("meta"):
        net = TrigFlowNet(config)
    mesh = init_device_mesh("cpu", (world.size,))
    for module in net.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net.to_empty(device="cpu")


def _zero(config: Any, world: Any) -> TrigFlowNet:
    from scaling.training.sharding.zero import _deepspeed

    settings = {"zero_optimization": {"stage": 3}, "train_batch_size": world.size}
    with _deepspeed(world).zero.Init(config_dict_or_path=settings):
        return TrigFlowNet(config)


def write(folder: Path, size: str) -> None:
    """Random weights of the size, as a release and by torch.save."""
    net = TrigFlowNet(load_family("img512").size(size))
    net.reset_parameters(torch.Generator().manual_seed(0))
    save_model(folder / "release", describe_network(net.config, SD_VAE_FT_MSE), net.state_dict())
    torch.save(net.state_dict(), folder / "state.pt")


def child(*arguments: str) -> dict[str, Any]:
    """This script in a process of its own; what it printed last."""
    found = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def ranks(
    folder: Path, size: str, strategy: str, count: int, script: str = __file__, **variables: str
) -> list[dict[str, int]]:
    """What each rank of a script measured, with these variables of its environment."""
    from slurm.ranks import free_port, rank_variables

    port = free_port()
    command = [sys.executable, script, str(folder), "--size", size, "--run", strategy]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **variables, **rank_variables(n, count, port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]
    outputs = [process.communicate()[0] for process in started]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def time_table(folder: Path, size: str, rounds: int) -> list[str]:
    """Lines of a table: each way to load, its seconds, and how much longer than the fastest that is not ours."""
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in LOADERS}
    for _ in range(rounds):
        for name in LOADERS:
            spent[name].append(child(str(folder), "--size", size, "--run", name))
    medians = {n: {k: statistics.median(one[k] for one in found) for k in found[0]} for n, found in spent.items()}
    fastest = min(medians[name]["processor"] for name in ("safetensors", "torch", "torch-assigned"))
    lines = ["| way | processor s | clock s | over the fastest of the others |", "| --- | --- | --- | --- |"]
    for name, (label, _) in LOADERS.items():
        one = medians[name]
        lines.append(f"| {label} | {one['processor']:.2f} | {one['wall']:.2f} | {one['processor'] / fastest:.2f} |")
    return lines


def memory_table(folder: Path, size: str, count: int) -> list[str]:
    """Lines of a table: of each strategy the rank whose memory grew most beside its share."""
    lines = ["| strategy | ranks | share GB | grew by GB | (grew - largest tensor) / share |", "| --- " * 5 + "|"]
    for strategy in ("fsdp2", "zero3"):
        found = ranks(folder, size, strategy, count)
        worst = max(found, key=lambda one: (one["grew"] - one["largest"]) / one["share"])
        ratio = (worst["grew"] - worst["largest"]) / worst["share"]
        lines.append(f"| {strategy} | {count} | {worst['share'] / GB:.3f} | {worst['grew'] / GB:.3f} | {ratio:.3f} |")
    return lines


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="xxl")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", choices=[*LOADERS, "fsdp2", "zero3", "write"])
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.run == "write":
        write(folder, options.size)
        print("{}")
    elif options.run in LOADERS:
        print(json.dumps(timed(folder, options.size, options.run)))
    elif options.run:
        print(json.dumps(sharded(folder, options.size, options.run)))
    else:
        report(folder, options.size, options.ranks, options.rounds)


def report(folder: Path, size: str, count: int, rounds: int) -> None:
    """Measure all, print it, and write it down."""
    with emptied(folder):
        child(str(folder), "--size", size, "--run", "write")
        tables = [*time_table(folder, size, rounds), "", *memory_table(folder, size, count)]
    note(RESULT, size, tables)


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    """A folder in which `write` may write: it is taken away again."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        shutil.rmtree(folder / "release", ignore_errors=True)
        (folder / "state.pt").unlink(missing_ok=True)


def note(result: Path, size: str, tables: Sequence[str]) -> None:
    """Print tables under the machine and the moment, and write them down."""
    facts = machine(torch.device("cpu"))
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    head = f"{facts['cpu']}, {facts['cores']} CPUs, torch {torch.__version__}, {stamp}; img512 {size}, float32"
    text = "\n".join([head, "", *tables, ""])
    print(text)
    result.write_text(text)


if __name__ == "__main__":
    main()
