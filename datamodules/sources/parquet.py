"""Rows of Parquet files, read in pieces so that a file of any size fits into memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.sources.annotations import BadRecord, Records

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 64
BUFFER_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 26
"""What the names and the list of row groups in a file's footer may take."""


def open_parquet(path: Path, columns: Sequence[str] = ()) -> "ParquetFile":
    """Open a Parquet file that has `columns`.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is no Parquet, or lacks a column.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path} is Parquet, which pyarrow reads: pip install 'trivium[tables]'") from error
    try:
        file = pyarrow.parquet.ParquetFile(
            path,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            thrift_string_size_limit=MAX_HEADER_BYTES,
            thrift_container_size_limit=MAX_HEADER_BYTES,
        )
        found = file.schema_arrow.names
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is not readable as Parquet ({str(error)[:200]}); is it whole?") from error
    if missing := [column for column in columns if column not in found]:
        file.close()
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}; found {', '.join(found)[:300]}. "
            "Name the right ones in the config."
        )
    return file


def read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Records:
    """Yield `("file:row", column -> value)` of the rows in order; a file that breaks off ends with a BadRecord.

    Args:
        path: the file.
        columns: those that must be there.
        optional: those that are read where they are.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is no Parquet, or lacks one of `columns`.
    """
    import pyarrow

    with open_parquet(path, columns) as file:
        wanted = [*columns, *(column for column in optional if column in file.schema_arrow.names)]
        number = 0
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name}:{number}", row
        except (OSError, ValueError, pyarrow.ArrowException):  # damaged pages, or text that is no UTF-8
            yield f"{path.name}:{number + 1}", BadRecord("rest of the file cannot be read")
