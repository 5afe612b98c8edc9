"""The inception score of Salimans et al. (2016): exp of the mean divergence of p(y | x) from p(y)."""

from __future__ import annotations

import numpy as np

SPLITS = 10


def inception_score(probabilities: np.ndarray) -> tuple[float, float]:
    """The mean score of ten consecutive parts of probabilities [N, K], and the standard error of that mean.

    Each part has a p(y) of its own, as is usual, so the score depends on N. ValueError for fewer than ten samples.
    """
    if len(probabilities) < SPLITS:
        raise ValueError(f"{len(probabilities)} samples: the inception score is of {SPLITS} parts, give {SPLITS}")
    scores = np.array([_score(part) for part in np.array_split(probabilities.astype(np.float64), SPLITS)])
    return float(scores.mean()), float(scores.std(ddof=1) / SPLITS**0.5)


def _score(p: np.ndarray) -> float:
    tiny = np.finfo(np.float64).tiny
    divergence = (p * (np.log(p.clip(tiny)) - np.log(p.mean(0).clip(tiny)))).sum(1)
    return float(np.exp(divergence.mean()))
