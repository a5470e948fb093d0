"""Which lines of delimited text are rows: the careful way, for text that cannot be read just so."""

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
    """Whether lines of a text can be told apart by a parser that knows nothing of lines."""
    if dialect.quoted and b'"' in text:
        return False
    return b"\r" not in text or text.count(b"\r") == text.count(b"\r\n")


def sound_lines(
    text: bytes, first: int, width: int, dialect: Dialect, faults: Faults
) -> tuple[bytes, Places]:
    """Leave out lines that are no rows.

    A quote must open a value at its start and close it at its end, on the same line; one inside is doubled.

    Args:
        text: whole lines, each with its line feed.
        first: number of the first line.
        width: columns a row must have.
        dialect: how the text is written.
        faults: gets the bad lines; blank ones are left out, but are not bad.

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
        data: its bytes; the last is a line feed.
        dialect: how it is written.
    """

    data: NDArray[np.uint8]
    dialect: Dialect

    @cached_property
    def ends(self) -> Places:
        """Where the line feed of each line is."""
        return np.flatnonzero(self.data == _LINE_FEED)

    @cached_property
    def starts(self) -> Places:
        """Where each line begins."""
        return np.concatenate([[0], self.ends[:-1] + 1])

    @cached_property
    def blank(self) -> Mask:
        """Which lines have nothing on them."""
        length = self.ends - self.starts
        blank: Mask = (length == 0) | ((length == 1) & (self.data[self.starts] == _RETURN))
        return blank

    @cached_property
    def quotes(self) -> Places:
        """Where the quotes are, if they mean anything."""
        return np.flatnonzero(self.data == _QUOTE) if self.dialect.quoted else np.zeros(0, np.int64)

    def line_of(self, places: Places) -> Places:
        """On which line each byte is."""
        return np.searchsorted(self.ends, places)

    def any_of(self, places: Places) -> Mask:
        """Which lines hold one of these bytes."""
        return np.bincount(self.line_of(places), minlength=len(self.ends)) > 0

    def with_stray_return(self) -> Mask:
        """Lines with a carriage return before their end."""
        returns = np.flatnonzero(self.data == _RETURN)
        return self.any_of(returns[self.data[returns + 1] != _LINE_FEED])

    def misquoted(self) -> Mask:
        """Lines whose quotes do not each open a value or close it."""
        if not len(self.quotes):
            return np.zeros(len(self.ends), bool)
        line = self.line_of(self.quotes)
        opens = (np.arange(len(line)) - np.searchsorted(line, line)) % 2 == 0
        separator = ord(self.dialect.separator)
        before = np.concatenate([[_LINE_FEED], self.data])[self.quotes]
        after = self.data[self.quotes + 1]
        # Two quotes in a row close a value and open it again: that is how one inside a value is written.
        opens_well = np.isin(before, [_LINE_FEED, separator, _QUOTE])
        closes_well = np.isin(after, [_LINE_FEED, _RETURN, separator, _QUOTE])
        wrong: Mask = self.any_of(self.quotes[~np.where(opens, opens_well, closes_well)])
        wrong |= np.bincount(line, minlength=len(self.ends)) % 2 == 1
        return wrong

    def columns(self) -> Places:
        """Columns of each line whose quotes are right."""
        separators = np.flatnonzero(self.data == ord(self.dialect.separator))
        line = self.line_of(separators)
        before = np.searchsorted(self.quotes, separators) - np.searchsorted(self.quotes, self.starts)[line]
        return np.bincount(line[before % 2 == 0], minlength=len(self.ends)) + 1
