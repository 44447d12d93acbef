"""Formatting numbers for people: one function per kind of number, and never a negative zero."""

from __future__ import annotations


def show_fixed(value: float, digits: int = 4, *, signed: bool = False) -> str:
    """Return ``value`` with a fixed number of decimals: ``0.1200``, ``+0.1200``.

    Args:
        value: any number.
        digits: number of decimals.
        signed: whether to write a plus sign.
    """
    rounded = round(value, digits) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:+.{digits}f}" if signed else f"{rounded:.{digits}f}"


def show_digits(value: float, digits: int = 3) -> str:
    """Return ``value`` with its sign and a number of significant digits: ``+0.12``, ``-34.5``.

    Args:
        value: any number.
        digits: number of significant digits.
    """
    return f"{value + 0.0:+.{digits}g}"


def show_number(value: float) -> str:
    """Return ``value`` with about three significant digits: ``0.12``, ``34.5``, ``1,234``.

    Args:
        value: any number.
    """
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{round(value, digits) + 0.0:,.{digits}f}"
