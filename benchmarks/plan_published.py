"""Does the plan count what others published? Our counts beside EDM2's and the sCM paper's, with the deviation.

    python benchmarks/plan_published.py [--json FILE]

EDM2 is arXiv 2312.02696, sCM arXiv 2410.11081. Both count a multiply-add once; so do these tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from models.encoders import get_encoder
from scaling.config.families import load_family
from scaling.plan.costs import Counts, cost, count, step_forwards
from scaling.run.spec import RunData, RunSpec
from scaling.sampling.evaluations import teacher_evaluations
from scaling.study.expand import expand
from scaling.study.open import open_study

STUDY = Path(__file__).parents[1] / "configs" / "study" / "imagenet512.yaml"
MI = 2**20

# EDM2's networks: parameters, and GMACs a forward pass of 64x64x4, counted from the architecture (what EDM2 itself
# prints holds elementwise work too: SCM_GMACS). EDM2's figures: training length in Mi images, training cost in
# zetta-MACs, MACs of one image without guidance in tera (63 evaluations and the decoder).
EXACT_MACS = "GMACs a forward pass: convolutions, linear layers, attention"
PARAMETERS = {
    "xxs": 31_309_029,
    "xs": 124_713_253,
    "s": 280_212_837,
    "m": 497_807_781,
    "l": 777_498_085,
    "xl": 1_119_283_749,
    "xxl": 1_523_164_773,
}
GMACS = {"xs": 45.0, "s": 100.8, "m": 178.9, "l": 279.3, "xl": 402.0, "xxl": 546.9}
MI_IMAGES = {"s": 2048, "m": 2048, "l": 1792, "xl": 1280, "xxl": 896}
TRAINING_ZETTA = {"s": 0.66, "m": 1.16, "l": 1.59, "xl": 1.63, "xxl": 1.56}
SAMPLING_TERA = {"s": 7.70, "m": 12.65, "l": 19.04, "xl": 26.83, "xxl": 36.04}
# sCM: GMACs a forward pass by EDM2's counter, which counts elementwise operations too.
SCM_GMACS = {"xs": 45.5, "s": 102.2, "m": 180.8, "l": 282.2, "xl": 405.9, "xxl": 552.1}
# sCM's two statements about training: an sCD iteration costs about twice a teacher's; two-step sCD comes to its
# teacher's quality within less than a fifth of the teacher's training compute.
ITERATION_RATIO, TEACHER_SHARE = 2.0, 0.2


@dataclass(frozen=True)
class Row:
    """One published figure and ours."""

    table: str
    size: str
    published: float
    ours: float

    @property
    def deviation(self) -> float:
        """Ours over the published, less one."""
        return self.ours / self.published - 1


def rows() -> Iterator[Row]:
    """What is known of EDM2's networks, and what EDM2 and the paper state of their compute, beside our counts."""
    counts = {size: count(network) for size, network in load_family("img512").sizes.items()}
    for size, published in PARAMETERS.items():
        yield Row("parameters", size, published, counts[size].parameters)
    for size, published in GMACS.items():
        yield Row(EXACT_MACS, size, published, counts[size].forward_macs / 1e9)
    for size, published in SCM_GMACS.items():
        yield Row("GMACs a forward pass as sCM prints them", size, published, counts[size].forward_macs / 1e9)
    for size, published in TRAINING_ZETTA.items():
        yield Row("training of EDM2, zetta-MACs", size, published, training_macs(counts[size], MI_IMAGES[size]) / 1e21)
    for size, published in SAMPLING_TERA.items():
        yield Row("sampling of EDM2, tera-MACs", size, published, sampling_macs(counts[size]) / 1e12)


def training_macs(counts: Counts, mi_images: int) -> int:
    """Of a teacher that sees so many Mi images."""
    return counts.forward_macs * step_forwards("teacher", guided=False, checkpointing=False) * mi_images * MI


def sampling_macs(counts: Counts) -> float:
    """Of one image in 32 steps without guidance, decoder included."""
    return counts.forward_macs * teacher_evaluations(32) + get_encoder("edm2-sd-vae-v1").decoder_macs


@dataclass(frozen=True)
class Share:
    """Compute of one size's students, in that of its teacher's own training."""

    size: str
    scd_iteration: float
    scd_training: float
    sct_training: float
    vsd_training: float


def shares() -> Iterator[Share]:
    """Per size of the paper's study: an sCD iteration in teacher iterations, and whole trainings."""
    study = open_study(STUDY)
    data = RunData(content_sha256="", held_out_sha256="", encoder=study.config.data.encoder)
    specs = {(run.spec.size, run.spec.method): run.spec for run in expand(study.config, study.family, data)}
    for size in study.config.sizes:
        teacher, scd = specs[size, "teacher"], specs[size, "scd"]
        students = [specs[size, method] for method in ("scd", "sct", "scd_vsd")]
        trainings = [training_flops(student) / training_flops(teacher) for student in students]
        yield Share(size, iteration_flops(scd) / iteration_flops(teacher), *trainings)


def tables() -> Iterator[Table]:
    """The published figures beside ours, and the students' compute in that of their teachers."""
    made: dict[str, Table] = {}
    for row in rows():
        if row.table not in made:
            made[row.table] = _table(row.table, ("size", "published", "ours", "deviation"))
        digits = ",.0f" if row.table == "parameters" else ".2f"
        numbers = (format(row.published, digits), format(row.ours, digits), f"{row.deviation:+.2%}")
        made[row.table].add_row(row.size, *numbers)
    yield from made.values()
    headings = ("size", "sCD step / teacher step", "sCD / teacher", "sCT / teacher", "sCD+VSD stage / teacher")
    students = _table("training compute of students by configs/study/imagenet512.yaml", headings)
    for share in shares():
        ratios = (share.scd_training, share.sct_training, share.vsd_training)
        students.add_row(share.size, f"{share.scd_iteration:.2f}", *(f"{ratio:.1%}" for ratio in ratios))
    students.caption = (
        f"sCM: a step about {ITERATION_RATIO:.0f}; two-step sCD reaches its teacher within {TEACHER_SHARE:.0%} "
        "of the teacher's training compute, which is less than the whole training that is counted here"
    )
    yield students


def _table(title: str, headings: Iterable[str]) -> Table:
    made = Table(title=title, title_justify="left")
    for n, heading in enumerate(headings):
        made.add_column(heading, justify="right" if n else "left")
    return made


def main() -> None:
    """Print the tables and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    for table in tables():
        Console().print(table)
    if arguments.json:
        published = [{**asdict(row), "deviation": row.deviation} for row in rows()]
        content = {"published": published, "shares": [asdict(share) for share in shares()]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def training_flops(spec: RunSpec) -> float:
    """Of one run."""
    return cost(spec).train_flops


def iteration_flops(spec: RunSpec) -> float:
    """Of one step of a run."""
    return training_flops(spec) / spec.recipe.steps


if __name__ == "__main__":
    main()
