"""One kernel for attention and for attention with its tangent, after FlashAttention-2 (Dao 2023) and the sCM paper.

A program owns ROWS queries of one head and walks over the keys, KEYS at a time. Per row it keeps the running maximum m
of the unscaled logits, the sum l of weights, the running mean c of dS, and accumulators O and T [ROWS, Dv]:

    p = e^{scale (q k^T - m')},  l' = a l + rowsum(p),  a = e^{scale (m - m')}
    c' = (a l c + rowsum(p dS)) / l',  H = p (dS - c')
    T <- a (T + (c - c') O) + H v + p tv,  O <- a O + p v

Softmax does not change when a row of dS moves by a constant, so centring on c is exact; it keeps H, which is rounded to
the input type for the matrix unit, as small as the answer is. At the end out = O / l, tangent = T / l, mean = c.
"""

import triton
import triton.language as tl

from kernels.triton_tiles import LOG2_E, accumulator, load_tile, scaled, scores, store_rows, store_tile, weighted

LOWEST = tl.constexpr(-3.0e38)  # start of a running maximum: finite, so that a scale of 0 times it is 0 and not NaN


@triton.jit
def attend(
    state, q_tile, tq_tile, k, v, tk, tv, batch, key_head, start, first, keys, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr, NEGATIVE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take keys start .. start + KEYS into the running state; MASKED where some of them may not be seen."""
    m, l, c, o, t = state
    half = q_tile[0].dtype
    zero = tl.zeros([ROWS, KEYS], tl.float32)
    k_tile = load_tile(k, batch, key_head, start, keys, KEYS, MASKED)
    s = scores(q_tile, k_tile, zero)
    d = zero
    if tq_tile is not None:
        d = scores(tq_tile, k_tile, d)
    if tk is not None:
        tk_tile = load_tile(tk, batch, key_head, start, keys, KEYS, MASKED)
        d = scores(q_tile, tk_tile, d)
    v_tile = load_tile(v, batch, key_head, start, keys, KEYS, MASKED)
    key = start + tl.arange(0, KEYS)[None, :]
    seen = key < keys
    if CAUSAL:
        seen = seen & (key <= first + tl.arange(0, ROWS)[:, None])
    if MASKED:
        s = tl.where(seen, s, float("inf") if NEGATIVE else float("-inf"))
    m_new = tl.minimum(m, tl.min(s, 1)) if NEGATIVE else tl.maximum(m, tl.max(s, 1))
    # Difference first, scale second: however large and rounded the logits are, no exponent is positive.
    p = tl.exp2((s - m_new[:, None]) * (scale * LOG2_E))
    a = tl.exp2((m - m_new) * (scale * LOG2_E))
    if MASKED:
        p = tl.where(seen, p, 0.0)
        d = tl.where(seen, d, 0.0)
    l_new = a * l + tl.sum(p, 1)
    if (tq_tile is not None) or (tk is not None):
        c_new = (a * l * c + scale * tl.sum(p * d, 1)) / l_new
        h = p * (d * scale - c_new[:, None])
        move = (a * (c - c_new))[:, None]
        t = (t[0] * a[:, None] + o[0] * move, t[1] * a[:, None] + o[1] * move)
        t = weighted(h.to(half), v_tile, t)
        c = c_new
    elif tv is not None:
        t = scaled(t, a[:, None])
    o = weighted(p.to(half), v_tile, scaled(o, a[:, None]))
    if tv is not None:
        tv_tile = load_tile(tv, batch, key_head, start, keys, KEYS, MASKED)
        t = weighted(p.to(half), tv_tile, t)
    return m_new, l_new, c, o, t


@triton.jit(
    do_not_specialize=[
        *("q", "k", "v", "tq", "tk", "tv", "out", "tangent", "lse", "mean"),
        *("heads", "group", "queries", "keys", "scale"),
    ]
)
def forward_kernel(
    q, k, v, tq, tk, tv, out, tangent, lse, mean, heads, group, queries, keys, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr, NEGATIVE: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(queries / ROWS) * B * heads,), blocks of queries fastest so that a head's keys stay in the L2 cache.

    Inputs are `Matrices`, a missing tangent or output is None; `group` query heads share one key head. NEGATIVE says
    that the scale is below 0: m is then a running minimum.
    """
    blocks = tl.cdiv(queries, ROWS)
    program = tl.program_id(0)
    index = program // blocks
    block = program % blocks
    if CAUSAL:
        block = blocks - 1 - block  # longest rows first
    batch, head = index // heads, index % heads
    key_head = head // group
    first = block * ROWS
    q_tile = load_tile(q, batch, head, first, queries, ROWS, True)
    if tq is None:
        tq_tile: tl.constexpr = None
    else:
        tq_tile = load_tile(tq, batch, head, first, queries, ROWS, True)
    zeros = accumulator(v, ROWS)
    row = tl.zeros([ROWS], tl.float32)
    state = (row - LOWEST if NEGATIVE else row + LOWEST, row, row, zeros, zeros)
    stop = keys
    full = keys // KEYS * KEYS  # whole blocks, seen by every row
    if CAUSAL:
        stop = tl.minimum(keys, first + ROWS)
        full = tl.minimum(keys, first + 1) // KEYS * KEYS
    for start in range(0, full, KEYS):
        state = attend(
            state, q_tile, tq_tile, k, v, tk, tv, batch, key_head, start, first, keys, scale,
            ROWS, KEYS, CAUSAL, NEGATIVE, False,
        )  # fmt: skip
    for start in tl.range(full, stop, KEYS, num_stages=1):
        state = attend(
            state, q_tile, tq_tile, k, v, tk, tv, batch, key_head, start, first, keys, scale,
            ROWS, KEYS, CAUSAL, NEGATIVE, True,
        )  # fmt: skip
    m, l, c, o, t = state
    store_rows(lse, index, first, queries, m * scale + tl.log(l))
    if mean is not None:
        store_rows(mean, index, first, queries, c)
    inverse = (1.0 / l)[:, None]
    store_tile(out, index, first, queries, scaled(o, inverse), v)
    if tangent is not None:
        store_tile(tangent, index, first, queries, scaled(t, inverse), v)
