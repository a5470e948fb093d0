"""User-defined logs, whose columns a YAML file declares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError

from manynet.data.base import DataError
from manynet.data.clicks.raw.layout import Columns, Dialect, Layout, capped
from manynet.data.clicks.schema import LABEL
from manynet.data.features import Categorical
from manynet.data.raw_files import RawFile, find_files
from manynet.errors import InvalidValue

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"


class Table(BaseModel):
    """A categorical feature: its table, and whether it has several values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Annotated[StrictInt, Field(ge=2, lt=2**31)] = Field(
        description="of its table, row 0 is what is missing"
    )
    values: Annotated[StrictInt, Field(ge=1)] = Field(
        1, description="to keep at most; more make it multi-valued"
    )
    separator: str = Field("", description="between values; in Parquet they are lists")


def _table(given: Any) -> Any:
    return {"rows": given} if isinstance(given, int) else given


class Declaration(BaseModel):
    """Content of a YAML file that declares a log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: str = Field(description="a file, a folder or a pattern, relative to the YAML file")
    separator: Annotated[str, Field(pattern=r'^[^"\r\n]$')] | None = Field(
        None, description="of columns; by default that of the file's extension"
    )
    columns: tuple[str, ...] = Field((), description="names, where the text has no header line")
    label: str = Field(description="column of the label")
    dense: tuple[str, ...] = Field((), description="columns of numbers")
    categorical: dict[str, Annotated[Table, BeforeValidator(_table)]] = Field(
        default_factory=dict, description="rows of each table"
    )


def read_declaration(path: str) -> Declaration:
    """Read and check a YAML file.

    Raises:
        DataError: in one line that names the key and the allowed values.
    """
    try:
        content = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"schema:FILE must be a readable YAML file, but got {path!r}: {line}") from None
    if not isinstance(content, dict):
        keys = ", ".join(Declaration.model_fields)
        raise DataError(f"{path} must be a mapping of {keys}, but got {content!r}")
    try:
        declaration = Declaration(**{str(key): value for key, value in content.items()})
    except ValidationError as error:
        raise DataError(f"{path}: {_one_line(error)}") from None
    problem = _problem(declaration)
    if problem:
        raise DataError(f"{path}: {problem}")
    return declaration


def _one_line(error: ValidationError) -> str:
    invalid = InvalidValue.first(error)
    model = Table if "." in invalid.key else Declaration
    return invalid.line(f"there are {', '.join(model.model_fields)}")


def _problem(declared: Declaration) -> str:
    """Conflict between keys that are valid on their own; empty if none."""
    names = (declared.label, *declared.dense, *declared.categorical)
    if len(names) == 1:
        return "there must be at least one feature, in dense or categorical"
    if declared.label in names[1:]:
        return f"the label must not be a feature, but {declared.label!r} is both"
    if repeated := _repeated(names):
        return f"a feature must be named once, but {repeated!r} is there twice"
    if LABEL in names[1:]:
        return f"no feature can be named {LABEL!r}: the converted label is"
    if repeated := _repeated(declared.columns):
        return f"columns must differ, but {repeated!r} is there twice"
    missing = [name for name in names if declared.columns and name not in declared.columns]
    if missing:
        return f"columns must hold the label and all features, but not {missing[0]!r}"
    for name, table in declared.categorical.items():
        if table.separator and table.values == 1:
            return f"categorical.{name}: a separator must come with values above 1, but got values: 1"
    return ""


def _repeated(names: Sequence[str]) -> str:
    return next((name for name, count in Counter(names).items() if count > 1), "")


def declared_files(path: str, declared: Declaration) -> list[RawFile]:
    """The files that a declaration names.

    Raises:
        DataError: if there are none, or their extensions differ.
    """
    home = str(Path(path).expanduser().absolute().parent)
    address = (
        declared.files if "://" in declared.files else str(Path(home) / Path(declared.files).expanduser())
    )
    files = find_files(address)
    kinds = sorted({file.kind for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"files must be of one kind, but {declared.files} are {' and '.join(map(repr, kinds))}"
        )
    return files


def declared_layout(path: str, declared: Declaration, files: list[RawFile], table_rows: int | None) -> Layout:
    """Layout of a declared log.

    Args:
        path: of the YAML file, for messages.
        declared: its content.
        files: of the log.
        table_rows: most rows of a table; None keeps the declared sizes.

    Raises:
        DataError: if a separator is missing or `table_rows` is below 2.
    """
    lists = {name: table.separator for name, table in declared.categorical.items() if table.values > 1}
    columns = Columns(declared.label, declared.dense, tuple(declared.categorical), lists)
    categorical = capped(
        (Categorical(name, table.rows, table.values) for name, table in declared.categorical.items()),
        table_rows,
    )
    return Layout("schema", columns, categorical, _dialect(path, declared, files[0].kind, lists))


def _dialect(path: str, declared: Declaration, kind: str, lists: dict[str, str]) -> Dialect | None:
    if kind == PARQUET:
        if declared.columns or declared.separator:
            raise DataError(
                f"{path}: columns and separator are for delimited text, but the files are Parquet"
            )
        return None
    separator = declared.separator or SEPARATORS.get(kind)
    if separator is None:
        raise DataError(
            f"{path}: separator is required, for {kind!r} does not imply one as {', '.join(SEPARATORS)} do"
        )
    for name, inside in lists.items():
        if not inside or inside == separator:
            raise DataError(
                f"{path}: categorical.{name}.separator must be one of its own, but got {inside!r}"
            )
    return Dialect(separator, quoted=True, header=declared.columns)
