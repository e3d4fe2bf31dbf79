"""A file's rows as Arrow batches: parquet by pyarrow, text by Python's own csv reader.

No engine's reader is used: whatever runs the steps gets the same rows.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from databricks_steps.trips import recognition
from databricks_steps.trips.recognition import NotTripsError

if TYPE_CHECKING:
    import pyarrow as pa

    from databricks_steps.trips.files import TripFile

BATCH_ROWS = 1 << 16
TEXT_ROWS = 1 << 14  # a third faster than 1 << 16: the fields of a chunk stay in the cache
PART_ROWS = 1 << 19  # of a parquet file: what a task of its own is worth


def batches(file: TripFile, groups: range | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The known columns of a file, in the order of its layout, in batches.

    Each batch comes with the number of its first row in the file, from 0. `groups` are row groups
    of a parquet file, as `parts` gives them; a text file is read whole.

    Raises:
        Exception: one of `damages()`.
    """
    return _text_batches(file) if file.format == "csv" else _parquet_batches(file, groups)


def parts(file: TripFile) -> list[range]:
    """Row groups of a parquet file, gathered to `PART_ROWS` rows; one part for any other file."""
    if file.format != "parquet":
        return [range(0)]
    with parquet(file.path) as opened:
        metadata = opened.metadata
    found, start, rows = [], 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= PART_ROWS:
            found.append(range(start, group + 1))
            start, rows = group + 1, 0
    if rows or not found:
        found.append(range(start, metadata.num_row_groups))
    return found


def parquet(path: str) -> Any:
    """The opened `ParquetFile`; times of 96 bits come as microseconds."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, coerce_int96_timestamp_unit="us")


@contextmanager
def text(file: TripFile) -> Iterator[TextIO]:
    """The file as text, unpacked; what is not of the encoding becomes U+FFFD."""
    layout = file.layout
    with (
        recognition.unpacked(Path(file.path), layout.packing) as stream,
        io.TextIOWrapper(stream, layout.encoding, errors="replace", newline="") as lines,
    ):
        yield lines


def records(lines: Iterable[str], delimiter: str, width: int | None = None) -> Iterator[list[str]]:
    """The header and the rows, but for those without a value in their first `width` fields.

    A first line such as `sep=;`, which spreadsheets write, is passed over.

    Raises:
        NotTripsError: with `width`, lines would be lost, for a quote is opened and not closed.
    """
    plain = (line.replace("\0", "") for line in lines)  # Python 3.10 refuses NUL
    reader = csv.reader(plain, delimiter=delimiter, skipinitialspace=True)
    first, line = True, 0
    try:
        for record in reader:
            if width is not None and reader.line_num > line + 1:
                _require_a_row(record, delimiter, width, line + 1, reader.line_num)
            line = reader.line_num
            if record and (record[0].strip() or any(map(str.strip, record[1:width]))):
                if not (first and record[0].lower().startswith("sep=")):
                    yield record
                first = False
    except csv.Error as error:
        if width is None:
            raise
        raise _open_quote(line + 1, f"not closed: {error}") from error


def _require_a_row(record: list[str], delimiter: str, width: int, first: int, last: int) -> None:
    """Refuse a record of several lines, unless its breaks lie in a field that is one note.

    A quote that stays open takes whole rows into a field: as many delimiters as a row has.
    """
    whole = len(record) == width
    if not whole or any(_is_rows(f, delimiter, width) for f in record):
        raise _open_quote(first, f"closed only in line {last}, if at all")


def _is_rows(field: str, delimiter: str, width: int) -> bool:
    return field.count(delimiter) >= width - 1 and ("\n" in field or "\r" in field)


def _open_quote(line: int, how: str) -> NotTripsError:
    problem = f"rows would be lost: a quote is opened in line {line} and {how}"
    return NotTripsError("quote", problem, "Close the quote in that line, or take it out")


def damages() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    from pyarrow import ArrowException

    return (
        *(ArrowException, OSError, EOFError, zlib.error, ValueError, OverflowError, csv.Error),
        *(KeyError, NotImplementedError, *recognition.damages()),
    )


def failures() -> tuple[type[Exception], ...]:
    """The same, and what an engine raises that reads one."""
    from pyspark.errors import PySparkException

    return (*damages(), PySparkException, *_engine_failures())


def reason(error: Exception) -> str:
    """In one line, for people."""
    if isinstance(error, NotTripsError):
        return error.problem
    return f"its rows cannot be read: {first_line(error)}"


def first_line(error: Exception) -> str:
    """Of what the error says; its name, if nothing."""
    said = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    said = said or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in said[:200])


def _engine_failures() -> Iterator[type[Exception]]:
    """Those of clients that are there only where the engine needs them."""
    try:
        from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]

        yield Py4JJavaError
    except ImportError:
        pass
    try:
        from grpc import RpcError  # type: ignore[import-untyped]

        yield RpcError
    except ImportError:
        pass


def _parquet_batches(file: TripFile, groups: range | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Columns by their place: two may have one name."""
    import pyarrow as pa

    leaves = sorted({column.position for column in file.layout.columns})
    places = [leaves.index(column.position) for column in file.layout.columns]
    with parquet(file.path) as opened:
        metadata = opened.metadata
        chosen = range(metadata.num_row_groups) if groups is None else groups
        row = sum(metadata.row_group(group).num_rows for group in range(chosen.start))
        zoned = _zoned_dictionaries(metadata)
        # `ParquetFile.iter_batches` knows columns by name alone; the reader behind it, by place.
        for batch in opened.reader.iter_batches(
            BATCH_ROWS, row_groups=list(chosen), column_indices=leaves, use_threads=False
        ):
            names = [batch.schema.field(place).name for place in places]
            arrays = [
                batch.column(place).cast(zoned.get(name, batch.column(place).type))
                for place, name in zip(places, names, strict=True)
            ]
            yield row, pa.RecordBatch.from_arrays(arrays, names)
            row += batch.num_rows


def _zoned_dictionaries(metadata: Any) -> dict[str, Any]:
    """Column → type of its times, where Arrow wrote a dictionary of them.

    Parquet keeps instants; the zone stands in Arrow's own schema, which pyarrow does not restore
    for a dictionary.
    """
    import base64

    import pyarrow as pa

    written = (metadata.metadata or {}).get(b"ARROW:schema")
    if not written:
        return {}
    schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(written)))
    dictionaries = {f.name: f.type.value_type for f in schema if pa.types.is_dictionary(f.type)}
    return {
        name: kind for name, kind in dictionaries.items() if pa.types.is_timestamp(kind) and kind.tz
    }


def _text_batches(file: TripFile) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Fields beyond the header's are passed over; those a row lacks are null."""
    import pyarrow as pa

    positions = [column.position for column in file.layout.columns]
    needed = max(positions) + 1
    names = [column.name for column in file.layout.columns]
    row = 0
    with text(file) as stream:
        rows = records(stream, file.layout.delimiter, file.layout.width)
        next(rows, None)  # the header
        while chunk := list(islice(rows, TEXT_ROWS)):
            full = [r if len(r) >= needed else _padded(r, needed) for r in chunk]
            arrays = [pa.array([r[p] for r in full], pa.string()) for p in positions]
            yield row, pa.RecordBatch.from_arrays(arrays, names)
            row += len(chunk)


def _padded(record: list[str], width: int) -> list[str]:
    """With fields that hold nothing."""
    return record + [""] * (width - len(record))
