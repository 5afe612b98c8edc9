"""Gradients of <G, out> + <E, tangent> with respect to q, k, v and the given tangents; G or E may be missing.

With P = e^{S - lse}, C = dS - mean, A = G v^T + E tv^T, M = E v^T, delta = rowsum(G out + E tangent), b = rowsum(E out)

    Y = dL/d(dS) = P (M - b)        Z = dL/dS = P (A - delta) + C Y        W = P C
    dq = s (Z k + Y tk)             dk = s (Z^T q + Y^T tq)                dv = P^T G + W^T E
    dtq = s Y k                     dtk = s Y^T q                          dtv = P^T E

`query_kernel` owns a block of queries, walks over the keys and leaves delta and b for `key_kernel`, which owns a block
of keys and walks over the queries of all heads that share them. Every sum has one owner and one order: no atomics, the
same bits each time. P, W, Y and Z are rounded to the input type for the matrix unit; all else is float32.
"""

import triton
import triton.language as tl

from kernels.triton_tiles import (
    LOG2_E,
    accumulator,
    load_rows,
    load_tile,
    row_products,
    scaled,
    scores,
    store_rows,
    store_tile,
    weighted,
)

ARGUMENTS = ["q", "k", "v", "tq", "tk", "tv", "g", "e", "lse", "mean", "delta", "b"]
ARGUMENTS += ["heads", "group", "queries", "keys", "scale"]


@triton.jit
def weights(s, lse, scale):
    """P = e^{scale s - lse}, never above 1, as the rounding of huge logits would have it."""
    return tl.exp2(tl.minimum(s * (scale * LOG2_E) - lse * LOG2_E, 0.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def query_step(
    sums, own, rows, k, v, tk, tv, batch, key_head, start, first, keys, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add the part of keys start .. start + KEYS to dq and dtq."""
    dq, dtq = sums
    q, tq, g, e = own
    lse, mean, delta, b = rows
    half = q[0].dtype
    zero = tl.zeros([ROWS, KEYS], tl.float32)
    k_tile = load_tile(k, batch, key_head, start, keys, KEYS, MASKED)
    s = scores(q, k_tile, zero)
    d = zero
    if tq is not None:
        d = scores(tq, k_tile, d)
    if tk is not None:
        tk_tile = load_tile(tk, batch, key_head, start, keys, KEYS, MASKED)
        d = scores(q, tk_tile, d)
    v_tile = load_tile(v, batch, key_head, start, keys, KEYS, MASKED)
    a = zero
    if g is not None:
        a = scores(g, v_tile, a)
    if tv is not None:
        tv_tile = load_tile(tv, batch, key_head, start, keys, KEYS, MASKED)
        a = scores(e, tv_tile, a)
    key = start + tl.arange(0, KEYS)[None, :]
    seen = key < keys
    if CAUSAL:
        seen = seen & (key <= first + tl.arange(0, ROWS)[:, None])
    p = weights(s, lse[:, None], scale)
    z = p * (a - delta[:, None])
    if (tq is not None) or (tk is not None):
        y = p * (scores(e, v_tile, zero) - b[:, None])
        z += (d * scale - mean[:, None]) * y
        if MASKED:
            y = tl.where(seen, y, 0.0)
        if tq is not None:
            dtq = weighted(y.to(half), k_tile, dtq)
        if tk is not None:
            dq = weighted(y.to(half), tk_tile, dq)
    if MASKED:
        z = tl.where(seen, z, 0.0)
    dq = weighted(z.to(half), k_tile, dq)
    return dq, dtq


@triton.jit(do_not_specialize=[*ARGUMENTS, "o", "t", "dq", "dtq"])
def query_kernel(
    q, k, v, tq, tk, tv, g, e, o, t, lse, mean, delta, b, dq, dtq, heads, group, queries, keys, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Writes dq, dtq, delta, b. Grid (ceil(queries / ROWS) * B * heads,); arguments as in `forward_kernel`."""
    blocks = tl.cdiv(queries, ROWS)
    program = tl.program_id(0)
    index = program // blocks
    block = program % blocks
    if CAUSAL:
        block = blocks - 1 - block  # longest rows first
    batch, head = index // heads, index % heads
    key_head = head // group
    first = block * ROWS

    none: tl.constexpr = None
    tq_tile, g_tile, e_tile = none, none, none
    row = tl.zeros([ROWS], tl.float32)
    row_mean, row_delta, row_b = row, row, row
    o_tile = load_tile(o, batch, head, first, queries, ROWS, True)
    if g is not None:
        g_tile = load_tile(g, batch, head, first, queries, ROWS, True)
        row_delta += row_products(g_tile, o_tile)
    if e is not None:
        e_tile = load_tile(e, batch, head, first, queries, ROWS, True)
        t_tile = load_tile(t, batch, head, first, queries, ROWS, True)
        row_delta += row_products(e_tile, t_tile)
        row_b = row_products(e_tile, o_tile)
        row_mean = load_rows(mean, index, first, queries, ROWS)
        store_rows(b, index, first, queries, row_b)
    store_rows(delta, index, first, queries, row_delta)
    q_tile = load_tile(q, batch, head, first, queries, ROWS, True)
    if tq is not None:
        tq_tile = load_tile(tq, batch, head, first, queries, ROWS, True)

    own = (q_tile, tq_tile, g_tile, e_tile)
    rows = (load_rows(lse, index, first, queries, ROWS), row_mean, row_delta, row_b)
    stop = keys
    full = keys // KEYS * KEYS  # whole blocks, seen by every row
    if CAUSAL:
        stop = tl.minimum(keys, first + ROWS)
        full = tl.minimum(keys, first + 1) // KEYS * KEYS
    sums = (accumulator(q, ROWS), accumulator(q, ROWS))
    for start in range(0, full, KEYS):
        sums = query_step(
            sums, own, rows, k, v, tk, tv, batch, key_head, start, first, keys, scale, ROWS, KEYS, CAUSAL, False
        )
    for start in tl.range(full, stop, KEYS, num_stages=1):
        sums = query_step(
            sums, own, rows, k, v, tk, tv, batch, key_head, start, first, keys, scale, ROWS, KEYS, CAUSAL, True
        )
    store_tile(dq, index, first, queries, scaled(sums[0], scale), q)
    if dtq is not None:
        store_tile(dtq, index, first, queries, scaled(sums[1], scale), q)


@triton.jit
def key_step(
    sums, own, rows, q, tq, g, e, batch, head, index, start, first, queries, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, OF_KEYS: tl.constexpr, OF_VALUES: tl.constexpr,
    CAUSAL: tl.constexpr, CHECK: tl.constexpr,
):  # fmt: skip
    """Add the part of queries start .. start + ROWS of one head to the sums; tiles here are transposed, [KEYS, ROWS].

    Queries beyond the last are loaded as zeros with G = E = 0 and add nothing: only the causal mask has work to do.
    """
    dk, dtk, dv, dtv = sums
    k, tk, v, tv = own
    lse, mean, delta, b = rows
    half = k[0].dtype
    zero = tl.zeros([KEYS, ROWS], tl.float32)
    q_tile = load_tile(q, batch, head, start, queries, ROWS, CHECK)
    s = scores(k, q_tile, zero)
    d = zero
    if tk is not None:
        d = scores(tk, q_tile, d)
    if tq is not None:
        tq_tile = load_tile(tq, batch, head, start, queries, ROWS, CHECK)
        d = scores(k, tq_tile, d)
    seen = first + tl.arange(0, KEYS)[:, None] <= start + tl.arange(0, ROWS)[None, :]
    p = weights(s, load_rows(lse, index, start, queries, ROWS)[None, :], scale)
    c = d
    if (tq is not None) or (tk is not None):
        c = d * scale - load_rows(mean, index, start, queries, ROWS)[None, :]
    if CAUSAL and CHECK:
        p = tl.where(seen, p, 0.0)
        c = tl.where(seen, c, 0.0)
    a = zero
    if g is not None:
        g_tile = load_tile(g, batch, head, start, queries, ROWS, CHECK)
        if OF_VALUES:
            dv = weighted(p.to(half), g_tile, dv)
        if OF_KEYS:
            a = scores(v, g_tile, a)
    if e is not None:
        e_tile = load_tile(e, batch, head, start, queries, ROWS, CHECK)
        if OF_VALUES and ((tq is not None) or (tk is not None)):
            dv = weighted((p * c).to(half), e_tile, dv)
    if tv is not None:
        if OF_VALUES:
            dtv = weighted(p.to(half), e_tile, dtv)
        if OF_KEYS:
            a = scores(tv, e_tile, a)
    if OF_KEYS:
        z = p * (a - load_rows(delta, index, start, queries, ROWS)[None, :])
        if (tq is not None) or (tk is not None):
            y = p * (scores(v, e_tile, zero) - load_rows(b, index, start, queries, ROWS)[None, :])
            z += c * y
            if CAUSAL and CHECK:
                y = tl.where(seen, y, 0.0)
            if tk is not None:
                dtk = weighted(y.to(half), q_tile, dtk)
            if tq is not None:
                dk = weighted(y.to(half), tq_tile, dk)
        if CAUSAL and CHECK:
            z = tl.where(seen, z, 0.0)
        dk = weighted(z.to(half), q_tile, dk)
    return dk, dtk, dv, dtv


@triton.jit(do_not_specialize=[*ARGUMENTS, "dk", "dv", "dtk", "dtv"])
def key_kernel(
    q, k, v, tq, tk, tv, g, e, lse, mean, delta, b, dk, dv, dtk, dtv, heads, group, queries, keys, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, OF_KEYS: tl.constexpr, OF_VALUES: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """Writes dk, dtk (OF_KEYS), dv, dtv (OF_VALUES) after `query_kernel`. Grid (ceil(keys / KEYS) * B * key heads,).

    Both at once share the recomputed weights; one at a time keeps wide heads within the registers.
    """
    blocks = tl.cdiv(keys, KEYS)
    program = tl.program_id(0)
    index = program // blocks
    first = program % blocks * KEYS
    key_heads = heads // group
    batch, key_head = index // key_heads, index % key_heads

    none: tl.constexpr = None
    tk_tile, tv_tile = none, none
    k_tile = load_tile(k, batch, key_head, first, keys, KEYS, True)
    v_tile = load_tile(v, batch, key_head, first, keys, KEYS, True)
    if tk is not None:
        tk_tile = load_tile(tk, batch, key_head, first, keys, KEYS, True)
    if tv is not None:
        tv_tile = load_tile(tv, batch, key_head, first, keys, KEYS, True)
    own = (k_tile, tk_tile, v_tile, tv_tile)
    rows = (lse, mean, delta, b)
    sums = (accumulator(k, KEYS), accumulator(k, KEYS), accumulator(v, KEYS), accumulator(v, KEYS))

    # Checked blocks under the diagonal, whole blocks below it, a checked last block; each for all heads of the group.
    full = queries // ROWS * ROWS
    top, below = 0, 0
    if CAUSAL:
        top = tl.minimum(first // ROWS * ROWS, queries)
        below = tl.cdiv(first + KEYS, ROWS) * ROWS
        count = tl.cdiv(tl.minimum(below, queries) - top, ROWS)
        for step in tl.range(0, group * count, num_stages=1):
            head = key_head * group + step // count
            sums = key_step(
                sums, own, rows, q, tq, g, e, batch, head, batch * heads + head, top + step % count * ROWS, first,
                queries, scale, ROWS, KEYS, OF_KEYS, OF_VALUES, CAUSAL, True,
            )  # fmt: skip
    count = (full - below) // ROWS
    for step in range(0, group * count):
        head = key_head * group + step // count
        sums = key_step(
            sums, own, rows, q, tq, g, e, batch, head, batch * heads + head, below + step % count * ROWS, first,
            queries, scale, ROWS, KEYS, OF_KEYS, OF_VALUES, CAUSAL, False,
        )  # fmt: skip
    count = tl.where(tl.maximum(full, below) < queries, group, 0)
    for step in tl.range(0, count, num_stages=1):
        head = key_head * group + step
        sums = key_step(
            sums, own, rows, q, tq, g, e, batch, head, batch * heads + head, full, first,
            queries, scale, ROWS, KEYS, OF_KEYS, OF_VALUES, CAUSAL, True,
        )  # fmt: skip
    if OF_KEYS:
        store_tile(dk, index, first, keys, scaled(sums[0], scale), k)
        if dtk is not None:
            store_tile(dtk, index, first, keys, scaled(sums[1], scale), k)
    if OF_VALUES:
        store_tile(dv, index, first, keys, sums[2], v)
        if dtv is not None:
            store_tile(dtv, index, first, keys, sums[3], v)
