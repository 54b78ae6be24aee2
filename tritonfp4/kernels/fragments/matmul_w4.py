"""Few rows by FP4 weights: a warp's words of the weights become fragments of its MMAs as they come from memory.

The warps of a program share the rows of its tile and divide K, chunk by chunk, so that together they read long pieces of each row
and need nothing of each other before the end. No shared memory, no barrier until then: DEPTH chunks of each warp are on their way.
"""

from __future__ import annotations

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from tritonfp4.kernels.fragments.decode import CHUNK, left_fragment, ordered_fragment, plain_fragment, right_fragment


@triton.constexpr_function
def _axis(axis, layout):
    """The layout of one axis of a layout."""
    for other in reversed(range(len(layout.order))):
        if other != axis:
            layout = gl.SliceLayout(other, layout)
    return layout


@gluon.jit
def _at(axis: gl.constexpr, size: gl.constexpr, LAYOUT: gl.constexpr):
    """0 to size - 1 along an axis of a layout."""
    x = gl.arange(0, size, _axis(axis, LAYOUT))
    for other in gl.static_range(len(LAYOUT.order)):
        if other != axis:
            x = gl.expand_dims(x, other)
    return x


@gluon.jit
def _scale_row(r, cols, LAYOUT: gl.constexpr):
    """Offset of the first scale of row r (`layouts.ScaleLayout.offset`)."""
    if LAYOUT == 2:
        return r * cols
    elif LAYOUT == 0:
        return r // 128 * (gl.cdiv(cols, 4) * 512) + r % 32 * 16 + r % 128 // 32 * 4
    else:
        return r // 8 * (gl.cdiv(cols, 4) * 32) + r % 8 * 4


@gluon.jit
def _scale_column(c, LAYOUT: gl.constexpr):
    """Offset of scale c of a row behind the first one."""
    if LAYOUT == 2:
        return c
    elif LAYOUT == 0:
        return c // 4 * 512 + c % 4
    else:
        return c // 4 * 32 + c % 4


@gluon.jit
def _load(pointers, k, left, WHOLE: gl.constexpr):
    """What lies at k, before the end of K; zeros behind it."""
    if WHOLE:
        return gl.load(pointers)
    else:
        return gl.load(pointers, mask=k < left, other=0)


_WORDS = gl.constexpr("""{ .reg .pred p; setp.ne.s32 p, $5, 0;
@p ld.global.L1::no_allocate.L2::cache_hint.v4.b32 {$0, $1, $2, $3}, [$4], $6; }""")
_TWO_CODES = gl.constexpr("{ .reg .pred p; setp.ne.s32 p, $2, 0; mov.b32 $0, 0; @p ld.global.u16 $0, [$1]; }")
_ONE_CODE = gl.constexpr("{ .reg .pred p; setp.ne.s32 p, $2, 0; mov.b32 $0, 0; @p ld.global.u8 $0, [$1]; }")
#: Leave L2 before all other lines.
_EVICT_FIRST = gl.constexpr(0x12F0000000000000)


@gluon.jit
def _load_weights(w_ptrs, c_ptrs, w_k, left, FORMAT: gl.constexpr):
    """Four words of each row and the codes of their scales, on their way from memory; of what lies behind the end of K only the codes are
    zeros. As assembly, for the compiler keeps loads where they are used, or a policy for each of them."""
    a, b, c, d = gl.inline_asm_elementwise(
        _WORDS, "=r,=r,=r,=r,l,r,l", [w_ptrs.to(gl.int64, bitcast=True), (w_k < left).to(gl.int32), _EVICT_FIRST],
        dtype=(gl.int32,) * 4, is_pure=False, pack=1,
    )  # fmt: skip
    codes = gl.inline_asm_elementwise(
        _ONE_CODE if FORMAT == "mxfp4" else _TWO_CODES, "=r,l,r", [c_ptrs.to(gl.int64, bitcast=True), (w_k < left).to(gl.int32)],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip
    return gl.join(gl.join(a, c), gl.join(b, d)).reshape([w_ptrs.shape[0], w_ptrs.shape[1], 4, 4]), codes


@gluon.jit
def after_previous():
    """Wait until the kernel before this one is done, which may have let this one begin early."""
    gl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _global(ptr, i, end, PER_ROW: gl.constexpr):
    if PER_ROW:
        return gl.load(ptr + i, mask=i < end, other=0.0)
    else:
        return gl.load(ptr + i * 0)


@gluon.jit
def _shuffled_index(n, BLOCK: gl.constexpr):
    """Original row of stored row n (`layouts.shuffled_index`); BLOCK 0: no shuffle."""
    if BLOCK == 0:
        return n
    else:
        return n // BLOCK * BLOCK + n % 8 * (BLOCK // 8) + n % BLOCK // 8


@gluon.jit
def _codes(ptr, first, i, k, cols, FORMAT: gl.constexpr, LAYOUT: gl.constexpr):
    """Where the scale codes of 32 elements from column k on of row first + i lie; those of NVFP4 are a pair. Rows of a tile
    share a 128x4 tile of the layout."""
    UNIT: gl.constexpr = 2 if FORMAT == "nvfp4" else 1
    base = _scale_row((first // 128 * 128).to(gl.int64), cols, LAYOUT)
    return (
        ptr + base // UNIT + (_scale_row(first % 128 + i, cols, LAYOUT) + _scale_column(k // 32 * UNIT, LAYOUT)) // UNIT
    )


@gluon.jit
def _code_step(step, FORMAT: gl.constexpr, LAYOUT: gl.constexpr):
    """How far `_codes` moves with k."""
    UNIT: gl.constexpr = 2 if FORMAT == "nvfp4" else 1
    return _scale_column(step // 32 * UNIT, LAYOUT) // UNIT


@gluon.jit
def _right(words, codes, X_FORMAT: gl.constexpr, COMPUTE: gl.constexpr, LAYOUT: gl.constexpr):
    if X_FORMAT == "plain":
        return plain_fragment(words, COMPUTE, LAYOUT)
    elif X_FORMAT == "ordered":
        return ordered_fragment(words, COMPUTE, LAYOUT)
    else:
        return right_fragment(words, codes, X_FORMAT, COMPUTE, LAYOUT)


@gluon.jit
def _product(
    x_ptr, x_scale_ptr, w_ptr, w_scale_ptr, row, token, rows, tokens, K, x_stride, w_stride, x_scale_cols, w_scale_cols,
    X_FORMAT: gl.constexpr, X_LAYOUT: gl.constexpr, W_FORMAT: gl.constexpr, W_LAYOUT: gl.constexpr, COMPUTE: gl.constexpr,
    WHOLE: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr, EARLY: gl.constexpr, MMA: gl.constexpr,
):  # fmt: skip
    """Weights from row `row` on by x from row `token` on, of which `rows` and `tokens` exist: each warp's part of the sum."""
    WARPS: gl.constexpr = gl.num_warps()
    LEFT: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    RIGHT: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    W_CODES: gl.constexpr = gl.BlockedLayout([1, 1, 1], [1, 8, 4], [WARPS, 1, 1], [2, 1, 0])
    X_WORDS: gl.constexpr = gl.BlockedLayout([1, 1, 1, 1, 4], [1, 1, 8, 4, 1], [WARPS, 1, 1, 1, 1], [4, 3, 2, 1, 0])
    X_CODES: gl.constexpr = gl.BlockedLayout([1, 1, 1, 1], [1, 1, 8, 4], [WARPS, 1, 1, 1], [3, 2, 1, 0])
    STEP: gl.constexpr = WARPS * CHUNK
    # Rows and tokens that do not exist are the last ones once more: their products are not stored.
    r = gl.minimum(_at(1, ROWS, W_CODES), rows - 1)
    w_k = (_at(0, WARPS, W_CODES) * 4 + _at(2, 4, W_CODES)) * 32
    w_ptrs = w_ptr + row.to(gl.int64) * w_stride + (r * w_stride + w_k // 8)
    c_ptrs = _codes(w_scale_ptr, row, r, w_k, w_scale_cols, W_FORMAT, W_LAYOUT)
    c_step = _code_step(STEP, W_FORMAT, W_LAYOUT)
    X_EACH: gl.constexpr = 16 if X_FORMAT == "plain" or X_FORMAT == "ordered" else 4
    X_STEP: gl.constexpr = WARPS * 512 if X_FORMAT == "ordered" else STEP // 32 * X_EACH
    m = gl.minimum(_at(1, TOKENS // 8, X_WORDS) * 8 + _at(2, 8, X_WORDS), tokens - 1)
    x_k = (_at(0, WARPS, X_WORDS) * 4 + _at(3, 4, X_WORDS)) * 32
    x_ptrs = x_ptr + token.to(gl.int64) * x_stride + (m * x_stride + x_k // 32 * X_EACH + _at(4, X_EACH, X_WORDS))
    if X_FORMAT == "ordered":
        # [8 tokens, chunk, word, token, thread, 4]
        chunk = _at(0, WARPS, X_WORDS) + (token // 8 + _at(1, TOKENS // 8, X_WORDS)) * gl.cdiv(K, CHUNK)
        x_ptrs = (
            x_ptr
            + chunk.to(gl.int64) * 512
            + (
                _at(4, 16, X_WORDS) // 4 * 128
                + _at(2, 8, X_WORDS) * 16
                + _at(3, 4, X_WORDS) * 4
                + _at(4, 16, X_WORDS) % 4
            )
        )
    if X_FORMAT == "plain" or X_FORMAT == "ordered":
        d_ptrs, d_k, d_step = x_ptrs, x_k, 0  # no codes: not loaded
    else:
        m = gl.minimum(_at(1, TOKENS // 8, X_CODES) * 8 + _at(2, 8, X_CODES), tokens - 1)
        d_k = (_at(0, WARPS, X_CODES) * 4 + _at(3, 4, X_CODES)) * 32
        d_ptrs = _codes(x_scale_ptr, token, m, d_k, x_scale_cols, X_FORMAT, X_LAYOUT)
        d_step = _code_step(STEP, X_FORMAT, X_LAYOUT)
    acc = gl.zeros([WARPS, ROWS, TOKENS], gl.float32, MMA)
    w, c = (), ()
    for j in gl.static_range(DEPTH):
        words, codes = _load_weights(w_ptrs + j * (STEP // 8), c_ptrs + j * c_step, w_k, K - j * STEP, W_FORMAT)
        w = w + (words,)  # noqa: RUF005
        c = c + (codes,)  # noqa: RUF005
    if EARLY:
        after_previous()
    for k in range(0, K, DEPTH * STEP):
        w_ptrs += DEPTH * STEP // 8
        c_ptrs += DEPTH * c_step
        for i in gl.static_range(DEPTH):
            left = K - k - i * STEP
            x = _load(x_ptrs, x_k, left, WHOLE)
            d = x if X_FORMAT == "plain" or X_FORMAT == "ordered" else _load(d_ptrs, d_k, left, WHOLE)
            a = left_fragment(w[0], c[0], W_FORMAT, COMPUTE, LEFT)
            words, codes = _load_weights(
                w_ptrs + i * (STEP // 8), c_ptrs + i * c_step, w_k, left - DEPTH * STEP, W_FORMAT
            )
            w = w[1:] + (words,)  # noqa: RUF005
            c = c[1:] + (codes,)  # noqa: RUF005
            acc = mma_v2(a, _right(x, d, X_FORMAT, COMPUTE, RIGHT), acc)
            x_ptrs += X_STEP
            d_ptrs += d_step
    return acc


@gluon.jit
def _scaled(acc, row, N, w_global_ptr, W_PER_ROW: gl.constexpr, SHUFFLE: gl.constexpr, UNSHIFT: gl.constexpr):
    """The sum over the warps [rows, tokens] with the scales that it lacks, and the column of the output of each row."""
    total = gl.sum(acc, 0) * UNSHIFT
    r = row + gl.arange(0, total.shape[0], gl.SliceLayout(1, total.type.layout))
    n = _shuffled_index(r, SHUFFLE)
    if w_global_ptr is not None:
        total = total * gl.expand_dims(_global(w_global_ptr, n, N, W_PER_ROW), 1)
    return total, gl.expand_dims(r, 1), gl.expand_dims(n, 1)


@gluon.jit(do_not_specialize=["M", "N"])
def matmul_w4_kernel(
    x_ptr, x_scale_ptr, x_global_ptr, w_ptr, w_scale_ptr, w_global_ptr, out_ptr, M, N, K, x_stride, w_stride, stride_m, stride_n,
    x_scale_cols, w_scale_cols,
    X_FORMAT: gl.constexpr, X_LAYOUT: gl.constexpr, X_PER_ROW: gl.constexpr, W_FORMAT: gl.constexpr, W_LAYOUT: gl.constexpr,
    W_SHUFFLE: gl.constexpr, W_PER_ROW: gl.constexpr, COMPUTE: gl.constexpr, UNSHIFT: gl.constexpr, WHOLE: gl.constexpr,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """out[m, n] = x[m] @ w[n]. Pointers and strides of x and w count words of 32 bits, those of NVFP4 scales pairs of them."""
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [gl.num_warps(), 1, 1], [1, 16, 8])
    tiles = gl.cdiv(N, ROWS)
    row = gl.program_id(0) % tiles * ROWS
    token = gl.program_id(0) // tiles * TOKENS
    acc = _product(
        x_ptr, x_scale_ptr, w_ptr, w_scale_ptr, row, token, N - row, M - token, K, x_stride, w_stride, x_scale_cols,
        w_scale_cols, X_FORMAT, X_LAYOUT, W_FORMAT, W_LAYOUT, COMPUTE, WHOLE, ROWS, TOKENS, DEPTH, EARLY, MMA,
    )  # fmt: skip
    total, r, n = _scaled(acc, row, N, w_global_ptr, W_PER_ROW, W_SHUFFLE, UNSHIFT)
    m = token + gl.arange(0, TOKENS, gl.SliceLayout(0, total.type.layout))
    if x_global_ptr is not None:
        total = total * gl.expand_dims(_global(x_global_ptr, m, M, X_PER_ROW), 0)
    m = gl.expand_dims(m, 0)
    to = out_ptr + m.to(gl.int64) * stride_m + n.to(gl.int64) * stride_n
    gl.store(to, total.to(out_ptr.dtype.element_ty), mask=(r < N) & (m < M))


@gluon.jit
def _segment(i, groups_ptr, G, M, MODE: gl.constexpr):
    """First row, rows that hold data, rows that are stored, and matrix of segment i. Ragged groups: segment 0 holds the rows before the
    first group, segment G + 1 those behind the last; offsets are clamped to the operand."""
    if MODE == "indptr":
        first = gl.load(groups_ptr + i - 1, mask=i > 0, other=0)
        end = gl.load(groups_ptr + i, mask=i <= G, other=0)
        first = gl.minimum(gl.maximum(first, 0), M).to(gl.int32)
        end = gl.minimum(gl.maximum(gl.where(i <= G, end, M), first), M).to(gl.int32)
        inside = (i >= 1) & (i <= G)
        return first, gl.where(inside, end - first, 0), end - first, gl.where(inside, i - 1, 0)
    else:
        valid = M
        if MODE == "masked":
            valid = gl.minimum(gl.maximum(gl.load(groups_ptr + i), 0), M).to(gl.int32)
        return 0, valid, M, i


@gluon.jit(do_not_specialize=["G", "M", "N"])
def grouped_w4_kernel(
    x_ptr, w_ptr, w_scale_ptr, w_global_ptr, groups_ptr, out_ptr, G, M, N, K, x_stride_g, x_stride, w_stride_g, w_stride, scale_stride_g,
    stride_g, stride_m, stride_n, w_scale_cols,
    MODE: gl.constexpr, W_FORMAT: gl.constexpr, W_LAYOUT: gl.constexpr, W_GLOBAL: gl.constexpr, COMPUTE: gl.constexpr,
    UNSHIFT: gl.constexpr, WHOLE: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, DEPTH: gl.constexpr,
):  # fmt: skip
    """The same for groups of rows, each with weights of its own; a program takes all rows of its group, tile by tile. Rows without
    data are stored as zeros."""
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [gl.num_warps(), 1, 1], [1, 16, 8])
    tiles = gl.cdiv(N, ROWS)
    row = gl.program_id(0) % tiles * ROWS
    first, valid, bound, g = _segment(gl.program_id(0) // tiles, groups_ptr, G, M, MODE)
    if W_GLOBAL == "group":
        w_global_ptr += g
    g = g.to(gl.int64)
    x_ptr += g * x_stride_g
    w_ptr += g * w_stride_g
    w_scale_ptr += g * scale_stride_g
    out_ptr += g * stride_g
    for token in range(0, bound, TOKENS):
        acc = gl.zeros([gl.num_warps(), ROWS, TOKENS], gl.float32, MMA)
        if token < valid:
            acc = _product(
                x_ptr, x_ptr, w_ptr, w_scale_ptr, row, first + token, N - row, valid - token, K, x_stride, w_stride, 0,
                w_scale_cols, "plain", 2, W_FORMAT, W_LAYOUT, COMPUTE, WHOLE, ROWS, TOKENS, DEPTH, False, MMA,
            )  # fmt: skip
        total, r, n = _scaled(acc, row, N, w_global_ptr, False, 0, UNSHIFT)
        m = gl.expand_dims(token + gl.arange(0, TOKENS, gl.SliceLayout(0, total.type.layout)), 0)
        total = gl.where(m < valid, total, 0.0)
        to = out_ptr + (first + m).to(gl.int64) * stride_m + n.to(gl.int64) * stride_n
        gl.store(to, total.to(out_ptr.dtype.element_ty), mask=(r < N) & (m < bound))
