"""Finds malformed lines of delimited text, where Arrow's parser could misread them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from manynet.data.clicks.raw.bad_rows import Faults
from manynet.data.clicks.raw.layout import Dialect

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]
_LINE_FEED, _RETURN, _QUOTE = b'\n\r"'


def is_plain(text: bytes, dialect: Dialect) -> bool:
    """Whether a CSV parser sees the same lines: no quotes, and carriage returns only at line ends."""
    if dialect.quoted and b'"' in text:
        return False
    return b"\r" not in text or text.count(b"\r") == text.count(b"\r\n")


def sound_lines(
    text: bytes, first: int, width: int, dialect: Dialect, faults: Faults
) -> tuple[bytes, Places]:
    """Drop lines that are not rows.

    A quote must open a value at its start and close it at its end, on the same line; one inside is doubled.

    Args:
        text: whole lines, each with its line feed.
        first: number of the first line.
        width: number of columns a row must have.
        dialect: of the text.
        faults: collects the bad lines; blank ones are dropped, but are not bad.

    Returns:
        The lines that are rows, and their numbers.
    """
    lines = _Lines(np.frombuffer(text, np.uint8), dialect)
    numbers = first + np.arange(len(lines.ends))
    bad = lines.with_stray_return()
    faults.add(
        "line end", numbers[bad], lambda _: "a carriage return must only end a line, but one is inside"
    )
    misquoted = lines.misquoted() & ~bad
    faults.add("quotes", numbers[misquoted], lambda _: "quotes must enclose a whole value on one line")
    bad |= misquoted
    counts = lines.columns()
    uneven = (counts != width) & ~bad & ~lines.blank
    faults.add(
        "columns",
        numbers[uneven],
        lambda at: f"a row must have {width} columns, but has {counts[np.flatnonzero(uneven)[at]]}",
    )
    good = ~(bad | uneven | lines.blank)
    kept = np.repeat(good, lines.ends - lines.starts + 1)
    return lines.data[kept].tobytes(), numbers[good]


@dataclass(frozen=True)
class _Lines:
    """The lines of a text.

    Attributes:
        data: bytes of the text; the last is a line feed.
        dialect: of the text.
    """

    data: NDArray[np.uint8]
    dialect: Dialect

    @cached_property
    def ends(self) -> Places:
        """Index of each line's line feed."""
        return np.flatnonzero(self.data == _LINE_FEED)

    @cached_property
    def starts(self) -> Places:
        """Index of each line's first byte."""
        return np.concatenate([[0], self.ends[:-1] + 1])

    @cached_property
    def blank(self) -> Mask:
        """Mask of blank lines."""
        length = self.ends - self.starts
        blank: Mask = (length == 0) | ((length == 1) & (self.data[self.starts] == _RETURN))
        return blank

    @cached_property
    def quotes(self) -> Places:
        """Indices of quotes; none where the dialect has no quoting."""
        return np.flatnonzero(self.data == _QUOTE) if self.dialect.quoted else np.zeros(0, np.int64)

    def line_of(self, places: Places) -> Places:
        """Line of each byte."""
        return np.searchsorted(self.ends, places)

    def any_of(self, places: Places) -> Mask:
        """Mask of lines that hold one of these bytes."""
        return np.bincount(self.line_of(places), minlength=len(self.ends)) > 0

    def with_stray_return(self) -> Mask:
        """Mask of lines with a carriage return before their end."""
        returns = np.flatnonzero(self.data == _RETURN)
        return self.any_of(returns[self.data[returns + 1] != _LINE_FEED])

    def misquoted(self) -> Mask:
        """Mask of lines with a quote that neither opens nor closes a value."""
        if not len(self.quotes):
            return np.zeros(len(self.ends), bool)
        line = self.line_of(self.quotes)
        opens = (np.arange(len(line)) - np.searchsorted(line, line)) % 2 == 0
        separator = ord(self.dialect.separator)
        before = np.concatenate([[_LINE_FEED], self.data])[self.quotes]
        after = self.data[self.quotes + 1]
        # A doubled quote, which stands for one inside a value, closes the value and opens it again.
        opens_well = np.isin(before, [_LINE_FEED, separator, _QUOTE])
        closes_well = np.isin(after, [_LINE_FEED, _RETURN, separator, _QUOTE])
        wrong: Mask = self.any_of(self.quotes[~np.where(opens, opens_well, closes_well)])
        wrong |= np.bincount(line, minlength=len(self.ends)) % 2 == 1
        return wrong

    def columns(self) -> Places:
        """Number of columns of each line, if its quotes are valid."""
        separators = np.flatnonzero(self.data == ord(self.dialect.separator))
        line = self.line_of(separators)
        before = np.searchsorted(self.quotes, separators) - np.searchsorted(self.quotes, self.starts)[line]
        return np.bincount(line[before % 2 == 0], minlength=len(self.ends)) + 1
