"""Few rows by FP4 weights: a warp's words of the weights become fragments of its MMAs as they come from memory.

The warps of a program share the rows of its tile and divide K, chunk by chunk, so that together they read long pieces of each row
and need nothing of each other before the end. No shared memory, no barrier until then: two chunks are on their way, the third is
multiplied.
"""

from __future__ import annotations

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from tritonfp4.kernels.fragments.decode import CHUNK, left_fragment, plain_fragment, right_fragment


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
def _store(
    acc, row, token, M, N, x_global_ptr, w_global_ptr, out_ptr, stride_m, stride_n, SHUFFLE: gl.constexpr,
    X_PER_ROW: gl.constexpr, W_PER_ROW: gl.constexpr, UNSHIFT: gl.constexpr,
):  # fmt: skip
    """The sum over the warps, with global scales, transposed."""
    total = gl.sum(acc, 0)
    LAYOUT: gl.constexpr = total.type.layout
    r = row + gl.arange(0, total.shape[0], gl.SliceLayout(1, LAYOUT))
    m = token + gl.arange(0, total.shape[1], gl.SliceLayout(0, LAYOUT))
    n = _shuffled_index(r, SHUFFLE)
    total = total * UNSHIFT
    if x_global_ptr is not None:
        if w_global_ptr is not None:
            alpha = _global(x_global_ptr, m, M, X_PER_ROW)[None, :] * _global(w_global_ptr, n, N, W_PER_ROW)[:, None]
        else:
            alpha = _global(x_global_ptr, m, M, X_PER_ROW)[None, :]
        total = total * alpha
    elif w_global_ptr is not None:
        total = total * _global(w_global_ptr, n, N, W_PER_ROW)[:, None]
    to = out_ptr + m.to(gl.int64)[None, :] * stride_m + n.to(gl.int64)[:, None] * stride_n
    gl.store(to, total.to(out_ptr.dtype.element_ty), mask=(r < N)[:, None] & (m < M)[None, :])


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
    else:
        return right_fragment(words, codes, X_FORMAT, COMPUTE, LAYOUT)


@gluon.jit(do_not_specialize=["M", "N"])
def matmul_w4_kernel(
    x_ptr, x_scale_ptr, x_global_ptr, w_ptr, w_scale_ptr, w_global_ptr, out_ptr, M, N, K, x_stride, w_stride, stride_m, stride_n,
    x_scale_cols, w_scale_cols,
    X_FORMAT: gl.constexpr, X_LAYOUT: gl.constexpr, X_PER_ROW: gl.constexpr, W_FORMAT: gl.constexpr, W_LAYOUT: gl.constexpr,
    W_SHUFFLE: gl.constexpr, W_PER_ROW: gl.constexpr, COMPUTE: gl.constexpr, UNSHIFT: gl.constexpr, WHOLE: gl.constexpr,
    ROWS: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """out[m, n] = x[m] @ w[n]. Pointers and strides of x and w count words of 32 bits, those of NVFP4 scales pairs of them."""
    WARPS: gl.constexpr = gl.num_warps()
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    RIGHT: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    W_WORDS: gl.constexpr = gl.BlockedLayout([1, 1, 1, 4], [1, 8, 4, 1], [WARPS, 1, 1, 1], [3, 2, 1, 0])
    W_CODES: gl.constexpr = gl.BlockedLayout([1, 1, 1], [1, 8, 4], [WARPS, 1, 1], [2, 1, 0])
    X_WORDS: gl.constexpr = gl.BlockedLayout([1, 1, 1, 1, 4], [1, 1, 8, 4, 1], [WARPS, 1, 1, 1, 1], [4, 3, 2, 1, 0])
    X_CODES: gl.constexpr = gl.BlockedLayout([1, 1, 1, 1], [1, 1, 8, 4], [WARPS, 1, 1, 1], [3, 2, 1, 0])
    STEP: gl.constexpr = WARPS * CHUNK
    tiles = gl.cdiv(N, ROWS)
    row = gl.program_id(0) % tiles * ROWS
    token = gl.program_id(0) // tiles * TOKENS
    # Rows and tokens that do not exist are those before them once more: their products are not stored.
    r = gl.minimum(_at(1, ROWS, W_WORDS), N - 1 - row)
    w_k = (_at(0, WARPS, W_WORDS) * 4 + _at(2, 4, W_WORDS)) * 32
    w_ptrs = w_ptr + row.to(gl.int64) * w_stride + (r * w_stride + w_k // 8 + _at(3, 4, W_WORDS))
    r = gl.minimum(_at(1, ROWS, W_CODES), N - 1 - row)
    c_k = (_at(0, WARPS, W_CODES) * 4 + _at(2, 4, W_CODES)) * 32
    c_ptrs = _codes(w_scale_ptr, row, r, c_k, w_scale_cols, W_FORMAT, W_LAYOUT)
    c_step = _code_step(STEP, W_FORMAT, W_LAYOUT)
    X_EACH: gl.constexpr = 16 if X_FORMAT == "plain" else 4
    X_STEP: gl.constexpr = STEP // 32 * X_EACH
    m = gl.minimum(_at(1, TOKENS // 8, X_WORDS) * 8 + _at(2, 8, X_WORDS), M - 1 - token)
    x_k = (_at(0, WARPS, X_WORDS) * 4 + _at(3, 4, X_WORDS)) * 32
    x_ptrs = x_ptr + token.to(gl.int64) * x_stride + (m * x_stride + x_k // 32 * X_EACH + _at(4, X_EACH, X_WORDS))
    if X_FORMAT == "plain":
        d_ptrs, d_k, d_step = x_ptrs, x_k, 0  # no codes: not loaded
    else:
        m = gl.minimum(_at(1, TOKENS // 8, X_CODES) * 8 + _at(2, 8, X_CODES), M - 1 - token)
        d_k = (_at(0, WARPS, X_CODES) * 4 + _at(3, 4, X_CODES)) * 32
        d_ptrs = _codes(x_scale_ptr, token, m, d_k, x_scale_cols, X_FORMAT, X_LAYOUT)
        d_step = _code_step(STEP, X_FORMAT, X_LAYOUT)
    acc = gl.zeros([WARPS, ROWS, TOKENS], gl.float32, MMA)
    w0, c0 = _load(w_ptrs, w_k, K, WHOLE), _load(c_ptrs, c_k, K, WHOLE)
    w1, c1 = _load(w_ptrs + STEP // 8, w_k, K - STEP, WHOLE), _load(c_ptrs + c_step, c_k, K - STEP, WHOLE)
    for k in range(0, K, 2 * STEP):
        w_ptrs += 2 * STEP // 8
        c_ptrs += 2 * c_step
        left = K - k
        x = _load(x_ptrs, x_k, left, WHOLE)
        d = x if X_FORMAT == "plain" else _load(d_ptrs, d_k, left, WHOLE)
        a = left_fragment(w0, c0, W_FORMAT, COMPUTE, LEFT)
        left -= 2 * STEP
        if left > 0:
            w0, c0 = _load(w_ptrs, w_k, left, WHOLE), _load(c_ptrs, c_k, left, WHOLE)
        acc = mma_v2(a, _right(x, d, X_FORMAT, COMPUTE, RIGHT), acc)
        x = _load(x_ptrs + X_STEP, x_k, left + STEP, WHOLE)
        d = x if X_FORMAT == "plain" else _load(d_ptrs + d_step, d_k, left + STEP, WHOLE)
        a = left_fragment(w1, c1, W_FORMAT, COMPUTE, LEFT)
        if left > 0:
            w1 = _load(w_ptrs + STEP // 8, w_k, left - STEP, WHOLE)
            c1 = _load(c_ptrs + c_step, c_k, left - STEP, WHOLE)
        acc = mma_v2(a, _right(x, d, X_FORMAT, COMPUTE, RIGHT), acc)
        x_ptrs += 2 * X_STEP
        d_ptrs += 2 * d_step
    _store(
        acc, row, token, M, N, x_global_ptr, w_global_ptr, out_ptr, stride_m, stride_n, W_SHUFFLE, X_PER_ROW, W_PER_ROW, UNSHIFT,
    )  # fmt: skip
