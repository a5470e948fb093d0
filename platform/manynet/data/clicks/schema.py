"""The schema.json of a converted data set: its columns and row counts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from manynet.data.base import DataError
from manynet.data.features import Features
from manynet.errors import InvalidValue
from manynet.storage import StorageError, exists, join, read_bytes, write_bytes

VERSION = 1
FILE = "schema.json"
LABEL = "label"


@dataclass(frozen=True)
class Schema:
    """A converted data set.

    Attributes:
        source: the format it was converted from.
        files: names of the raw files, without folders.
        label: name of the raw column; the converted one is always ``label``.
        features: the other columns, in order.
        seed: of the splits.
        rows: rows of each of ``train``, ``validation`` and ``test``.
        positives: how many of them have label 1.
        dropped: bad rows that were left out, by reason.
        digest: identity of the content, 16 hexadecimal digits.
    """

    source: str
    files: tuple[str, ...]
    label: str
    features: Features
    seed: int
    rows: dict[str, int]
    positives: dict[str, int]
    dropped: dict[str, int]
    digest: str

    @property
    def summary(self) -> str:
        """A few lines for display."""
        lines = [
            f"{name}: {rows:,} rows, {self.positives[name] / rows:.2%} positive"
            for name, rows in self.rows.items()
        ]
        if self.dropped:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.items())
            lines.append(f"left out: {sum(self.dropped.values()):,} bad rows ({reasons})")
        return "\n".join([*lines, f"digest: {self.digest}"])


def check_labels(schema: Schema, of: str) -> None:
    """Refuse a split of one label alone: nothing can be ranked on it.

    Args:
        schema: of splits that hold rows.
        of: what else the message says.

    Raises:
        DataError: for the first such split.
    """
    for name, rows in schema.rows.items():
        if schema.positives[name] in (0, rows):
            label = int(schema.positives[name] > 0)
            raise DataError(
                f"each split must hold rows of both labels, but all {rows:,} of {name} have label {label} ({of})"
            )


def schema_address(folder: str | Path) -> str:
    """Address of a converted data set's schema."""
    return join(folder, FILE)


def is_finished(folder: str | Path) -> bool:
    """Whether a folder holds a complete converted data set."""
    return exists(schema_address(folder))


def write_schema(folder: str | Path, schema: Schema) -> None:
    """Write the schema atomically. It marks the data set as complete.

    Raises:
        DataError: if it cannot be written.
    """
    content = json.dumps({"version": VERSION, **asdict(schema)}, indent=1)
    try:
        write_bytes(schema_address(folder), content.encode())
    except StorageError as error:
        raise DataError(str(error)) from None


def read_schema(folder: str | Path) -> Schema:
    """The schema of a converted data set.

    Args:
        folder: its local path or pyarrow address.

    Raises:
        DataError: if there is none, or this version cannot read it.
    """
    address = schema_address(folder)
    try:
        if not exists(address):
            raise DataError(
                f"a converted data set must hold {FILE}, but {folder} does not: convert it (again)"
            )
        content = read_bytes(address)
    except StorageError as error:
        raise DataError(str(error)) from None
    return _parse(content, address)


def _parse(content: bytes, address: str) -> Schema:
    rule = f"{address} must be as conversion writes it"
    try:
        fields = json.loads(content)
        version = fields.pop("version")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DataError(f"{rule}, but it is something else") from None
    if version != VERSION:
        raise DataError(f"{rule}, in version {VERSION}, but it is version {version!r}")
    try:
        return TypeAdapter(Schema).validate_python(fields)
    except ValidationError as error:
        raise DataError(f"{rule}, but {InvalidValue.first(error).line()}") from None
