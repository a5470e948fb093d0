"""The loops of :mod:`manynet.elastic.small_heads`, compiled for the machine they run on.

Scores are computed as powers of two, which need neither a table nor a library: the integer part of the
exponent goes into the bits of a float, the fraction into a polynomial. Innermost loops do the same for every
token, without a sum over tokens, so that the compiler can vectorise them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# A product and a sum may become one instruction; sums keep their order, on which `_exp2` relies.
_compiled = numba.njit(fastmath={"contract"}, error_model="numpy", nogil=True, cache=True)

_single = np.float32
# The best fifth-degree fit of 2**x from -1/2 to 1/2, to 2e-7.
_POWER = np.polynomial.Chebyshev.interpolate(np.exp2, 5, domain=[-0.5, 0.5])
_P0, _P1, _P2, _P3, _P4, _P5 = (_single(c) for c in _POWER.convert(kind=np.polynomial.Polynomial).coef)
# A float this large has no room for a fraction, so adding it rounds.
_ROUNDING = _single(1.5 * 2**23)
_MANTISSA_BITS = np.int32(23)
# Below it a power of two is no normal float, and nothing beside the largest score's.
_SMALLEST = _single(-126)
_LARGEST = _single(3e38)
# Scores are in units of log 2 and divided by the root of the head's two features.
_LOG2_E = _single(math.log2(math.e))
_SCALE = _single(math.log2(math.e) / math.sqrt(2))
_ROOT = _single(1 / math.sqrt(2))


@intrinsic
def _as_float(typing: Any, bits: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _as_bits(typing: Any, number: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.IntType(32))

    return types.int32(types.float32), generate


@_compiled
def _exp2(x: Any) -> Any:
    """``2**x`` of a float32 of at most 0, to 3e-7 of it."""
    x = max(x, _SMALLEST)
    shifted = x + _ROUNDING
    rest = x - (shifted - _ROUNDING)
    power = _P5 * rest + _P4
    power = power * rest + _P3
    power = power * rest + _P2
    power = power * rest + _P1
    power = power * rest + _P0
    bits = _as_bits(power) + np.int32(_as_bits(shifted) << _MANTISSA_BITS)  # type: ignore[call-arg]
    return _as_float(bits)


@_compiled
def _read(
    qkv: Any, b: Any, h: Any, query0: Any, query1: Any, key0: Any, key1: Any, value0: Any, value1: Any
) -> None:
    """Fill six arrays of ``N`` with one head's features; the query's so that its scores are powers of two."""
    for i in range(len(query0)):
        query0[i], query1[i] = qkv[b, i, 6 * h] * _SCALE, qkv[b, i, 6 * h + 1] * _SCALE
        key0[i], key1[i] = qkv[b, i, 6 * h + 2], qkv[b, i, 6 * h + 3]
        value0[i], value1[i] = qkv[b, i, 6 * h + 4], qkv[b, i, 6 * h + 5]


@_compiled
def attend(qkv: Any, mixed: Any, logsums: Any) -> None:
    """Softmax attention.

    Args:
        qkv: ``(B, N, heads * 6)``: head by head, the two features each of query, key and value.
        mixed: filled with the values as mixed, ``(B, N, heads * 2)``.
        logsums: filled with the binary logarithm of each query's sum of exponentials, ``(B, heads, N)``.
    """
    batch, tokens, width = qkv.shape
    query0, query1 = np.empty(tokens, _single), np.empty(tokens, _single)
    key0, key1 = np.empty(tokens, _single), np.empty(tokens, _single)
    value0, value1 = np.empty(tokens, _single), np.empty(tokens, _single)
    most, total = np.empty(tokens, _single), np.empty(tokens, _single)
    sum0, sum1 = np.empty(tokens, _single), np.empty(tokens, _single)
    for b in range(batch):
        for h in range(width // 6):
            _read(qkv, b, h, query0, query1, key0, key1, value0, value1)
            for i in range(tokens):
                total[i], sum0[i], sum1[i] = 0, 0, 0
            _largest(query0, query1, key0, key1, most)
            for j in range(tokens):
                k0, k1, v0, v1 = key0[j], key1[j], value0[j], value1[j]
                for i in range(tokens):
                    weight = _exp2(query0[i] * k0 + query1[i] * k1 - most[i])
                    total[i] += weight
                    sum0[i] += weight * v0
                    sum1[i] += weight * v1
            for i in range(tokens):
                mixed[b, i, 2 * h], mixed[b, i, 2 * h + 1] = sum0[i] / total[i], sum1[i] / total[i]
                logsums[b, h, i] = most[i] + np.log2(total[i])


@_compiled
def _largest(query0: Any, query1: Any, key0: Any, key1: Any, most: Any) -> None:
    """Fill ``most`` with an upper bound of each query's scores.

    The bound is the largest product with a corner of the keys' bounding box, which takes no pass over the scores.
    Where that bound is so loose that all powers might underflow, it is the exact maximum.
    """
    tokens = len(most)
    low0, low1, high0, high1 = _LARGEST, _LARGEST, -_LARGEST, -_LARGEST
    for j in range(tokens):
        low0, high0 = min(low0, key0[j]), max(high0, key0[j])
        low1, high1 = min(low1, key1[j]), max(high1, key1[j])
    spread = _single(0)
    for i in range(tokens):
        most[i] = max(query0[i] * low0, query0[i] * high0) + max(query1[i] * low1, query1[i] * high1)
        reach = abs(query0[i]) * (high0 - low0) + abs(query1[i]) * (high1 - low1)
        spread = max(spread, reach)
    if spread < -_SMALLEST:
        return
    for i in range(tokens):
        most[i] = -_LARGEST
    for j in range(tokens):
        k0, k1 = key0[j], key1[j]
        for i in range(tokens):
            most[i] = max(most[i], query0[i] * k0 + query1[i] * k1)


@_compiled
def attend_backward(qkv: Any, mixed: Any, logsums: Any, slope: Any, found: Any) -> None:
    """Gradient of :func:`attend`.

    The weights are computed twice, once for all queries and once for all keys side by side.

    Args:
        qkv: as :func:`attend` took it.
        mixed: what it gave.
        logsums: what it gave.
        slope: of the loss by ``mixed``, ``(B, N, heads * 2)``.
        found: filled with the slope by ``qkv``, ``(B, N, heads * 6)``.
    """
    batch, tokens, width = qkv.shape
    query0, query1 = np.empty(tokens, _single), np.empty(tokens, _single)
    key0, key1 = np.empty(tokens, _single), np.empty(tokens, _single)
    value0, value1 = np.empty(tokens, _single), np.empty(tokens, _single)
    slope0, slope1 = np.empty(tokens, _single), np.empty(tokens, _single)
    inner, logsum = np.empty(tokens, _single), np.empty(tokens, _single)
    of_query0, of_query1 = np.empty(tokens, _single), np.empty(tokens, _single)
    of_key0, of_key1 = np.empty(tokens, _single), np.empty(tokens, _single)
    of_value0, of_value1 = np.empty(tokens, _single), np.empty(tokens, _single)
    for b in range(batch):
        for h in range(width // 6):
            _read(qkv, b, h, query0, query1, key0, key1, value0, value1)
            for i in range(tokens):
                slope0[i], slope1[i] = slope[b, i, 2 * h], slope[b, i, 2 * h + 1]
                inner[i] = slope0[i] * mixed[b, i, 2 * h] + slope1[i] * mixed[b, i, 2 * h + 1]
                logsum[i] = logsums[b, h, i]
                of_query0[i], of_query1[i], of_key0[i], of_key1[i] = 0, 0, 0, 0
                of_value0[i], of_value1[i] = 0, 0
            for j in range(tokens):
                k0, k1, v0, v1 = key0[j], key1[j], value0[j], value1[j]
                for i in range(tokens):
                    weight = _exp2(query0[i] * k0 + query1[i] * k1 - logsum[i])
                    of_score = weight * (slope0[i] * v0 + slope1[i] * v1 - inner[i])
                    of_query0[i] += of_score * k0
                    of_query1[i] += of_score * k1
            for i in range(tokens):
                q0, q1, s0, s1, mean, shift = query0[i], query1[i], slope0[i], slope1[i], inner[i], logsum[i]
                for j in range(tokens):
                    weight = _exp2(q0 * key0[j] + q1 * key1[j] - shift)
                    of_score = weight * (s0 * value0[j] + s1 * value1[j] - mean)
                    of_key0[j] += of_score * q0
                    of_key1[j] += of_score * q1
                    of_value0[j] += weight * s0
                    of_value1[j] += weight * s1
            for i in range(tokens):
                found[b, i, 6 * h], found[b, i, 6 * h + 1] = of_query0[i] * _ROOT, of_query1[i] * _ROOT
                found[b, i, 6 * h + 2], found[b, i, 6 * h + 3] = of_key0[i] / _LOG2_E, of_key1[i] / _LOG2_E
                found[b, i, 6 * h + 4], found[b, i, 6 * h + 5] = of_value0[i], of_value1[i]
