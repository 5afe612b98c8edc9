"""How much memory does a training step take, beside what the plan predicts?

    python benchmarks/memory.py

On a CPU: two gloo processes train a small network under DDP, FSDP2 and ZeRO-1 to 3 and add up the storages that they
hold; and one process follows the allocator through a step, with and without tangents and activation checkpointing, in
float32 and bfloat16. Two minutes. On a GPU: the sizes of img512 that fit, peaks by torch.cuda.max_memory_allocated.
Prints tables and writes them, and every number, to benchmarks/results/memory-DEVICE.{md,json}. ZeRO needs the extra
deepspeed.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from benchmarks.allocator import allocated_peak
from benchmarks.memory_held import SIGMA_REL, draw, objective
from models.dropout import Dropout
from models.network import NetworkConfig
from models.trigflow import TrigFlowNet
from scaling.config.sections import Ema, Launch, Precision, Strategy
from scaling.plan.memory.activations import activation_bytes
from scaling.plan.memory.device import device_memory
from scaling.plan.memory.timeline import DTYPES
from scaling.study.machine import machine
from scaling.training.ema import Averages
from scaling.training.sharding.parallel import build_engine
from scaling.training.sharding.world import World
from scaling.training.start import First
from slurm.ranks import free_port, rank_variables

Record = dict[str, Any]
STUDENT_DROPOUT = 16  # the finest resolution at which a student drops features (sCM, section 4.1)
RESULTS = Path(__file__).parent / "results"
NANO_L = NetworkConfig(8, 4, 10, 32, (1, 2), 1, (4,), head_channels=8)
DEEP = NetworkConfig(32, 4, 10, 32, (1, 2, 3, 4), 3, (16, 8), head_channels=32)  # few samples, many weights
SMALL = NetworkConfig(16, 4, 10, 64, (1, 2), 1, (8,), head_channels=32)
IMG512 = {"s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
MIB = 2**20
STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
RUNS: tuple[tuple[Precision, bool], ...] = (("fp32", False), ("bf16", True))  # and whether it is a student
HELD: list[tuple[Strategy, Precision, bool]] = [(s, p, student) for s in STRATEGIES for p, student in RUNS]


def held_by_processes(strategy: Strategy, precision: Precision, student: bool) -> list[dict[str, int]]:
    """The bytes that each of two gloo processes holds, part by part, as `memory_held.held` finds them."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("memory_held.py")),
        strategy,
        json.dumps(NANO_L.describe()),
    ]
    command += ["student" if student else "teacher", precision]
    port = free_port()
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **rank_variables(rank, 2, port), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"{strategy}, {precision}: a process failed:\n{errors[-3000:]}")
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def compare_held(
    strategy: Strategy, precision: Precision, student: bool, held: Sequence[dict[str, int]]
) -> list[Record]:
    """One record a part: predicted bytes, and those of the fuller of the processes."""
    measured = {part: max(each[part] for each in held) for part in held[0]}
    predicted = device_memory(
        NANO_L,
        "sct" if student else "teacher",
        strategy,
        world=2,
        microbatch=2,
        precision=precision,
        emas=len(SIGMA_REL),
        checkpointing=False,
        guided=False,
        dropout_to=STUDENT_DROPOUT if student else None,
    )
    case = f"{strategy} {precision} {'sct' if student else 'teacher'}"
    return [_record(f"{case} {part}", getattr(predicted, part), size) for part, size in measured.items()]


def allocator_peak(network: NetworkConfig, batch: int, student: bool, checkpointing: bool, precision: Precision) -> int:
    """The most bytes that the CPU's allocator gave out during forward and backward, above what it had given before.

    The gradients are there before, so that they do not count.
    """
    net = TrigFlowNet(network)
    net.reset_parameters(torch.Generator().manual_seed(0))
    net.unet.activation_checkpointing = checkpointing
    samples = draw(network, count=batch)

    def step() -> None:
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
            loss = objective(net, samples, student)
        loss.backward()

    step()
    return allocated_peak(step)


def compare_activations(network: NetworkConfig, name: str, batch: int) -> list[Record]:
    """One record for each of plain and with tangents, with and without checkpointing, float32 and bfloat16."""
    records = []
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision, student, checkpointing in product(precisions, (False, True), (False, True)):
        measured = allocator_peak(network, batch, student, checkpointing, precision)
        predicted = activation_bytes(
            network, batch=batch, dual=student, checkpointing=checkpointing, precision=precision
        )
        case = f"{name} batch {batch} {precision} {'sct' if student else 'teacher'}"
        records.append(_record(case + (" checkpointing" if checkpointing else ""), predicted, measured))
    return records


def compare_gpu(size: str, student: bool, checkpointing: bool, microbatch: int) -> list[Record]:
    """The whole of a step in bfloat16 on this GPU, unless it does not fit."""
    network = NetworkConfig(64, 4, 1000, IMG512[size], (1, 2, 3, 4), 3, (16, 8))
    method = "sct" if student else "teacher"
    predicted = device_memory(
        network,
        method,
        "ddp",
        world=1,
        microbatch=microbatch,
        precision="bf16",
        emas=len(SIGMA_REL),
        checkpointing=checkpointing,
        guided=False,
        dropout_to=STUDENT_DROPOUT if student else None,
    )
    if predicted.total > 0.9 * torch.cuda.get_device_properties(0).total_memory:
        return []
    case = f"img512-{size} batch {microbatch} {method}" + (" checkpointing" if checkpointing else "")
    return [_record(case, predicted.total, _gpu_peak(network, microbatch, student, checkpointing))]


def _gpu_peak(network: NetworkConfig, microbatch: int, student: bool, checkpointing: bool) -> int:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    samples = draw(network, count=microbatch, device="cuda")
    drop = Dropout(0.1, samples.labels, STUDENT_DROPOUT if student else None)
    samples = replace(samples, dropout=drop)
    launch = Launch(activation_checkpointing=checkpointing)
    engine = build_engine(First(network, 0), launch, World(0, 1, torch.device("cuda")))
    averages = Averages(engine.weights(), Ema(sigma_rel=SIGMA_REL), microbatch)
    for update in (1, 2, 3):
        torch.cuda.reset_peak_memory_stats()
        with engine.micro(last=True):
            with torch.autocast("cuda", torch.bfloat16):
                loss = objective(engine.net, samples, student)
            engine.backward(loss)
        engine.step(1e-3, 1.0)
        averages.update(engine.weights(), update)
    return torch.cuda.max_memory_allocated() - before


def _record(case: str, predicted: int, measured: int) -> Record:
    return {"case": case, "predicted": predicted, "measured": measured, "deviation": predicted / measured - 1}


def table(records: list[Record]) -> str:
    """A Markdown table."""
    lines = ["| case | predicted MiB | measured MiB | deviation % |", "| --- | --- | --- | --- |"]
    for record in records:
        sizes = f"{record['predicted'] / MIB:.3f} | {record['measured'] / MIB:.3f}"
        lines.append(f"| {record['case']} | {sizes} | {100 * record['deviation']:+.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what this machine can, print it and write it."""
    gpu = torch.cuda.is_available()
    if gpu:
        cases = product(IMG512, (False, True), (False, True), (8, 32))
        sections = {"A step, all parts": [record for case in cases for record in compare_gpu(*case)]}
    else:
        torch.set_num_threads(1)
        sections = {
            "Held by the fuller of two processes, nano l (0.72 M parameters)": [
                record for case in HELD for record in compare_held(*case, held_by_processes(*case))
            ],
            "Peak of activations": compare_activations(NANO_L, "nano l", 64)
            + compare_activations(SMALL, "2.9 M parameters, 16x16", 8)
            + compare_activations(DEEP, "img512's levels at width 32, 32x32", 4),
        }
    found = machine(torch.device("cuda" if gpu else "cpu"))
    name = found["device"] if gpu else f"{found['cpu']}, {found['cores']} CPUs"
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    head = f"{name}, torch {torch.__version__}, {when}"
    text = "\n\n".join([head, *(f"{title}:\n\n{table(records)}" for title, records in sections.items())])
    print(text)
    stem = RESULTS / f"memory-{'gpu' if gpu else 'cpu'}"
    stem.with_suffix(".md").write_text(text + "\n")
    stem.with_suffix(".json").write_text(json.dumps({"machine": head, **sections}, indent=1) + "\n")


if __name__ == "__main__":
    main()
