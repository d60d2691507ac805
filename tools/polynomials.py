"""Compute the polynomials and tables of fastce/_simd/functions.hpp, and their errors, with mpmath.

    python tools/polynomials.py           # print them, and each polynomial's worst relative error
    python tools/polynomials.py --check   # compare with the literals in the headers

Each function is reduced to a smooth rest whose polynomial need not be exact to the last bit,
because it is multiplied by something small:

    exp r     = 1 + r + r² P(r)        |r| ≤ log(2) / 2, for expm1 too; / 8 or / 32 with a table
    2 atanh s = 2 s + s³ P(s²)         |s| ≤ (√2 − 1) / (√2 + 1), for log; ≤ 1/3, for log1p; ≤ 1/5
    log1p r   = r + r² P(r)            |r| ≤ 1/62, with a table

P interpolates the rest at the Chebyshev nodes of its interval, which comes within a small factor of
the best polynomial; every coefficient is then rounded to the precision it is used in. The error
printed is that of the whole function with such a P evaluated exactly, in ULP at 1;
tests/kernels/test_elementary.py measures what the evaluation's own roundings add.

Source of the method: L. N. Trefethen, "Approximation Theory and Approximation Practice", SIAM 2013,
chapters 4 and 8.
"""

import argparse
import functools
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
from mpmath import mpf

HEADER = Path(__file__).resolve().parent.parent / "fastce" / "_simd" / "functions.hpp"
TABLES = HEADER.with_name("tables.hpp")
POINTS = 2001

Number = Any  # mpmath has no types
Function = Callable[[Number], Number]

mpmath.mp.prec = 160

# A thousandth beyond the ends, because the reduced argument is rounded.
HALF_LN2 = mpmath.log(2) / 2 * mpf("1.001")
LARGEST_S = (mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1) * mpf("1.001")
NEAR_ZERO = mpf("1e-25")  # here the rest is its limit, to all of the digits kept


def rest_of(function: Function, limit: Number) -> Function:
    """(f(r) − r) / r² for expm1 and log1p, with its limit at 0."""
    return lambda r: (function(r) - r) / r**2 if abs(r) > NEAR_ZERO else limit


def atanh_rest(square: Number) -> Number:
    """(2 atanh s − 2 s) / s³ as a function of s²."""
    if square < NEAR_ZERO:
        return mpf(2) / 3
    s = mpmath.sqrt(square)
    return (2 * mpmath.atanh(s) - 2 * s) / s**3


def exp_error(r: Number, p: Number) -> Number:
    """Relative error of e^r with P(r) = p."""
    return (1 + r + r * r * p) / mpmath.exp(r) - 1


def atanh_error(square: Number, p: Number) -> Number:
    """Relative error of atanh s with P(s²) = p."""
    if not square:
        return mpf(0)
    s = mpmath.sqrt(square)
    return (s + s * square * p / 2) / mpmath.atanh(s) - 1


def log1p_error(r: Number, p: Number) -> Number:
    """Relative error of log1p r with P(r) = p."""
    return (r + r * r * p) / mpmath.log1p(r) - 1 if r else mpf(0)


@dataclass(frozen=True)
class Polynomial:
    """One polynomial of the header: what it approximates, where, and with how many coefficients."""

    name: str
    signature: str  # how its C++ function begins in the header
    dtype: type[np.float32] | type[np.float64]
    count: int
    rest: Function
    error: Callable[[Number, Number], Number]
    interval: tuple[Number, Number]

    def coefficients(self) -> list[float]:
        """Coefficients of P from the highest power down, as the header has them, rounded."""
        with warnings.catch_warnings():  # mpmath 1.4 would rather return the lowest power first
            warnings.simplefilter("ignore", DeprecationWarning)
            exact = mpmath.chebyfit(self.rest, self.interval, self.count)
        return [float(self.dtype(float(c))) for c in exact]

    def worst_error(self) -> float:
        """Largest relative error of the function over the interval, in ULP at 1."""
        coefficients = [mpf(c) for c in self.coefficients()]
        errors = (
            abs(self.error(x, functools.reduce(lambda p, c, x=x: p * x + c, coefficients)))
            for x in mpmath.linspace(*self.interval, POINTS)
        )
        return float(max(errors) / mpf(float(np.finfo(self.dtype).eps)))


def literals_of(text: str, first: str, last: str) -> list[float]:
    """Hexadecimal numbers in a text, from the mark `first` to the next mark `last`."""
    start = text.index(first)
    found = re.findall(r"-?0x[0-9a-f]\.[0-9a-f]+p[-+]?\d+", text[start : text.index(last, start)])
    return [float.fromhex(literal) for literal in found]


def nearest_float(x: Number) -> Number:
    """Round to float32."""
    return mpf(float(np.float32(float(x))))


def exp2_table() -> list[Number]:
    """2^(i/16), rounded."""
    return [nearest_float(mpf(2) ** (mpf(i) / 16)) for i in range(16)]


def exp2_table_low() -> list[Number]:
    """What rounding removed from 2^(i/16), relative to the rounded value."""
    exact = [mpf(2) ** (mpf(i) / 16) for i in range(16)]
    return [nearest_float((x - p) / x) for x, p in zip(exact, exp2_table(), strict=True)]


def quarter_multiples() -> list[Number]:
    """c 2^(i/4), with the float c in [1, 2) for which all of them are nearest to floats."""
    c = np.arange(2**23, 2**24) / 2**23
    farthest = np.zeros(c.size)
    for i in range(1, 4):
        multiple = c * 2 ** (i / 4)
        farthest = np.maximum(farthest, np.abs(np.float32(multiple) / multiple - 1))
    best = mpf(float(c[np.argmin(farthest)]))
    return [nearest_float(best * mpf(2) ** (mpf(i) / 4)) for i in range(4)]


def inverses() -> list[Number]:
    """Floats near 1 / (1 + i/31), from 1/2 to 1, whose logarithm is nearly a float."""
    found = [mpf(1)]  # its logarithm must be exactly 0
    for i in range(1, 32):
        start = nearest_float(1 / (1 + mpf(i) / 31))
        step = mpf(2) ** -24
        near = [start + sign * k * step for k in range(512) for sign in (1, -1)]
        logs = [(c, -mpmath.log(c)) for c in near if c >= mpf(1) / 2]
        found.append(min(logs, key=lambda pair: abs(pair[1] / nearest_float(pair[1]) - 1))[0])
    return found


def logarithms() -> list[Number]:
    """−log of `inverses`, rounded."""
    return [nearest_float(-mpmath.log(c)) for c in inverses()]


COMPUTED = (exp2_table, exp2_table_low, quarter_multiples, inverses, logarithms)
TABLES_OF = {f.__name__: f for f in COMPUTED}


EXP_REST, LOG1P_REST = rest_of(mpmath.expm1, mpf(1) / 2), rest_of(mpmath.log1p, mpf(-1) / 2)
EXP = (EXP_REST, exp_error, (-HALF_LN2, HALF_LN2))
QUARTER_EXP = (EXP_REST, exp_error, (-HALF_LN2 / 4, HALF_LN2 / 4))
SIXTEENTH_EXP = (EXP_REST, exp_error, (-HALF_LN2 / 16, HALF_LN2 / 16))
ATANH = (atanh_rest, atanh_error, (mpf(0), LARGEST_S**2))
LOG1P = (LOG1P_REST, log1p_error, (mpf(-1) / 62 * mpf("1.001"), mpf(1) / 62 * mpf("1.001")))
WHOLE_LOG1P = (LOG1P_REST, log1p_error, (mpf(0), mpf(1)))
QUOTIENT = (atanh_rest, atanh_error, (mpf(0), (mpf(1) / 5 * mpf("1.001")) ** 2))
WIDE_ATANH = (atanh_rest, atanh_error, (mpf(0), (mpf(1) / 3 * mpf("1.001")) ** 2))

POLYNOMIALS = [
    Polynomial("exp, float32", "vec<float> exp_polynomial(", np.float32, 5, *EXP),
    Polynomial("exp by 4", "vec<float> quarter_exp_polynomial(", np.float32, 3, *QUARTER_EXP),
    Polynomial("exp by 16", "vec<float> sixteenth_exp_polynomial(", np.float32, 2, *SIXTEENTH_EXP),
    Polynomial("exp, float64", "vec<double> exp_polynomial(", np.float64, 10, *EXP),
    Polynomial("log1p by table", "vec<float> log1p_polynomial(", np.float32, 3, *LOG1P),
    Polynomial("log1p", "vec<float> whole_log1p_polynomial(", np.float32, 9, *WHOLE_LOG1P),
    Polynomial("2 atanh in log1p", "vec<float> wide_atanh_polynomial(", np.float32, 4, *WIDE_ATANH),
    Polynomial("2 atanh, float32", "vec<float> atanh_polynomial(", np.float32, 3, *ATANH),
    Polynomial("2 atanh, float64", "vec<double> atanh_polynomial(", np.float64, 7, *ATANH),
    Polynomial(
        "2 atanh of a quotient", "vec<double> quotient_polynomial(", np.float64, 4, *QUOTIENT
    ),
]


def in_c(numbers: list[Number], dtype: type[np.floating], separator: str = ", ") -> str:
    """Write numbers as C++ literals, without the zeros that their precision cannot hold."""
    places, suffix = (6, "f") if dtype is np.float32 else (13, "")
    parts = (float(number).hex().split("p") for number in numbers)
    return separator.join(
        f"{mantissa[: mantissa.index('.') + 1 + places]}p{int(exponent)}{suffix}"
        for mantissa, exponent in parts
    )


def differences(header: str, tables: str) -> list[str]:
    """Describe where the headers' literals differ from the ones computed here."""
    found = [
        (name, np.float32, numbers(), literals_of(tables, f" {name}[", "};"))
        for name, numbers in TABLES_OF.items()
    ]
    # A function's body has its coefficients from the lowest power up.
    found += [
        (p.name, p.dtype, p.coefficients(), literals_of(header, p.signature, "\n}")[::-1])
        for p in POLYNOMIALS
    ]
    return [
        f"{name}: the header has {in_c(written, dtype)}; computed: {in_c(computed, dtype)}"
        for name, dtype, computed, written in found
        if computed != written
    ]


def main() -> int:
    """Print the polynomials, or check the header."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the headers")
    if parser.parse_args().check:
        found = differences(*(path.read_text(encoding="utf-8") for path in (HEADER, TABLES)))
        count = f"{len(POLYNOMIALS)} polynomials and {len(TABLES_OF)} tables"
        print("\n".join(found) or f"{count} are as in {HEADER.name} and {TABLES.name}")
        return int(bool(found))
    for polynomial in POLYNOMIALS:
        print(f"{polynomial.name}: worst relative error {polynomial.worst_error():.2g} ULP")
        print("    " + in_c(polynomial.coefficients(), polynomial.dtype, "\n    "))
    for name, numbers in TABLES_OF.items():
        print(f"{name}:")
        print("    " + in_c(numbers(), np.float32, "\n    "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
