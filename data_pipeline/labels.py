"""The one gate of labels and class names, whoever packs them and whatever compares them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from data_pipeline.manifest import INDEX_DTYPE, DataError, Manifest
from data_pipeline.text import is_safe, shown

LARGEST = int(np.iinfo(INDEX_DTYPE["label"]).max) - 1  # labels, and their number, are stored in 32 bits
SHOWN = 10
WHOLE = re.compile("[0-9]+")


def require_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Labels int64 [count].

    Raises:
        DataError: not integers [count], or one below 0 or above `LARGEST`; names `where` and the value.
    """
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise DataError(
            f"{where}: labels is {labels.dtype} {list(labels.shape)}, expected {count} integers, none below 0"
            f"{_remedy(labels, count)}"
        )
    for extreme in (labels.min(), labels.max()):
        if not 0 <= extreme <= LARGEST:
            raise DataError(
                f"{where}: labels holds {extreme}, expected 0 to {LARGEST}: number the classes from 0"
                f"{'; -1 often marks images without a class: leave them out' if extreme == -1 else ''}"
            )
    return labels.astype(np.int64)


def _remedy(labels: np.ndarray, count: int) -> str:
    """How an array becomes labels, where that can be told."""
    if labels.shape == (count, 1):
        return ": labels[:, 0]"
    if labels.ndim == 2 and len(labels) == count and labels.dtype.kind in "biuf" and (labels.sum(1) == 1).all():
        return ", not one of several columns: labels.argmax(1)"
    if labels.shape != (count,):
        return ": one label an image"
    if labels.dtype.kind in "US":
        return ": np.unique(labels, return_inverse=True)[1]"
    whole = labels.dtype.kind == "b" or (labels.dtype.kind == "f" and bool((labels == np.round(labels)).all()))
    return ": labels.astype(np.int64)" if whole else ""


def describe_classes(labels: np.ndarray, num_classes: int, names: Sequence[str] | None = None) -> str:
    """The number of classes in words, with those that no sample has: "10 classes, 2 of them without samples: 3, 7"."""
    present = np.unique(labels)
    missing = num_classes - len(present)
    counted = "1 class" if num_classes == 1 else f"{num_classes:,} classes"
    if not missing:
        return counted
    # The first absent ones lie below SHOWN + the number that is present: a range over all may have 2^31 of them.
    first = np.setdiff1d(np.arange(min(num_classes, len(present) + SHOWN)), present)[:SHOWN].tolist()
    listed = ", ".join(f"{label}" if names is None else f"{label} ({names[label]})" for label in first)
    return f"{counted}, {missing:,} of them without samples: {listed}{', ...' if missing > SHOWN else ''}"


def class_order(names: Sequence[str]) -> list[str]:
    """Class names in the order of their labels: as numbers where all are whole numbers, else sorted as text.

    Raises:
        DataError: a name that a terminal would obey, or two that are one number ("1" and "01").
    """
    for name in names:
        if not is_safe(name):
            raise DataError(f"the class name {shown(name)} holds control characters: rename it")
    if not all(WHOLE.fullmatch(name) for name in names):
        return sorted(names)
    ordered = sorted(names, key=lambda name: (int(name), name))
    for first, second in pairwise(ordered):
        if int(first) == int(second):
            raise DataError(f"the class names {first!r} and {second!r} are one number: rename one, or merge the two")
    return ordered


def require_same_classes(training: Manifest, held_out: Manifest, where: str) -> None:
    """DataError unless held-out samples are of the classes of the training set; names are compared where both have any.

    `where` names the held-out shards in the message.
    """
    ours, theirs = training.class_names, held_out.class_names
    if ours is not None and theirs is not None and ours != theirs:
        lacking = [name for name in ours if name not in set(theirs)]
        surplus = [name for name in theirs if name not in set(ours)]
        parts = [f"{text} {', '.join(map(repr, names[:SHOWN]))}{', ...' if len(names) > SHOWN else ''}"
                 for text, names in (("lacks", lacking), ("has besides", surplus)) if names]  # fmt: skip
        what = " and ".join(parts) or "has them in another order"
        raise DataError(
            f"{where}: the held-out classes are not those of the training set: it {what}: pack both from folders of "
            "the same classes, each with images"
        )
    if training.num_classes != held_out.num_classes:
        raise DataError(
            f"{where}: holds {held_out.num_classes} classes, the training set {training.num_classes}: held-out images "
            "of every class are needed, under the same labels"
        )
