"""The request contract: the fields of a fare request, what each may hold, and the errors.

Bytes go in, arrays ready for scoring come out, without a data frame between. What happens with the
arrays (lookups, scoring) is not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from databricks_steps import schemas
from databricks_steps.errors import ServingError
from databricks_steps.features.request import AIRPORTS, FIELDS, NOT_TOLD, TRIP_TYPE, TRIP_TYPES
from databricks_steps.trips.limits import FIRST_LOCATION, LAST_LOCATION, MOST_MILES

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ROWS = 10_000
FIRST_PICKUP = datetime(2009, 1, 1)  # noqa: DTZ001 - New York wall clock, as the trips
LAST_PICKUP = datetime(2100, 1, 1)  # noqa: DTZ001
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001
_MICROSECOND = timedelta(microseconds=1)
_HOUR = 3_600_000_000  # microseconds
_FIRST_WEEKDAY = _EPOCH.weekday()  # Monday is 0
_FEW = 8  # values that are read one by one: arrays would cost more
FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")

OWN = "taxi-assets-check"  # how the client_request_id of the project's own requests begins
_AT_PICKUP = {"vendor_id", "passenger_count", TRIP_TYPE}
IGNORED = frozenset(
    {column.name for column in schemas.PUBLISHED} - {*FIELDS} - _AT_PICKUP | {"trip_id"}
)
LOOKED_UP = frozenset(
    column.name
    for table in (schemas.PICKUP_FEATURES, schemas.DROPOFF_FEATURES)
    for column in table.features
)
_TAKEN = (*FIELDS, TRIP_TYPE)
_NEEDED = frozenset(FIELDS)
_ENVELOPE = frozenset({*FORMS, "params", "extra_params", "client_request_id"})
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,6})?", re.ASCII)

Columns = Mapping[str, Sequence[Any]]


class RequestError(ServingError):
    """A request breaks the contract; `code` is the error code of the answer.

    `client_request_id` is the request's id at its sender, where it could be read.
    """

    client_request_id: str | None = None

    def __init__(
        self, rule: str, value: object, remedy: str, code: str = "INVALID_PARAMETER_VALUE"
    ) -> None:
        super().__init__(rule, value, remedy)
        self.code = code


@dataclass(frozen=True)
class FareRequest:
    """One valid request, by column; every array has one value for each row."""

    pickup_location_id: NDArray[np.int64]
    dropoff_location_id: NDArray[np.int64]
    trip_distance: NDArray[np.float64]
    pickup_micros: NDArray[np.int64]  # since 1970, of the wall clock
    trip_type: NDArray[np.int64]  # 0 where it is not told
    client_request_id: str | None = None
    interval: bool = False  # whether each fare is wanted with its low and high
    explain: bool = False  # whether the model's inputs are wanted beside the fares

    def __len__(self) -> int:
        return len(self.pickup_micros)

    @property
    def pickup_datetime(self) -> tuple[datetime, ...]:
        """The pickup times, New York wall clock."""
        found = self.pickup_micros.tolist()
        return tuple(_EPOCH + timedelta(microseconds=at) for at in found)

    def keys(self, name: str) -> NDArray[np.int64]:
        """The values of a lookup key."""
        return self.pickup_location_id if name == FIELDS[0] else self.dropoff_location_id

    def features(self) -> dict[str, NDArray[Any]]:
        """What the model takes from the request itself, in the order of `REQUEST_FEATURES`."""
        hours = self.pickup_micros // _HOUR
        weekday = (hours // 24 + _FIRST_WEEKDAY) % 7
        values = (
            self.trip_distance,
            hours % 24,
            weekday,
            (weekday >= 5).astype(np.int64),
            np.isin(self.pickup_location_id, AIRPORTS).astype(np.int64),
            np.isin(self.dropoff_location_id, AIRPORTS).astype(np.int64),
            self.pickup_location_id,
            self.dropoff_location_id,
            self.trip_type,
        )
        return dict(zip((c.name for c in schemas.REQUEST_FEATURES), values, strict=True))

    def only_row(self) -> list[float]:
        """The values of `features` for a request of one row; arrays would cost more than it."""
        hours = self.pickup_micros.item() // _HOUR
        weekday = (hours // 24 + _FIRST_WEEKDAY) % 7
        pickup, dropoff = self.pickup_location_id.item(), self.dropoff_location_id.item()
        return [
            *(self.trip_distance.item(), hours % 24, weekday, int(weekday >= 5)),
            *(int(pickup in AIRPORTS), int(dropoff in AIRPORTS), pickup, dropoff),
            self.trip_type.item(),
        ]


def parse(body: bytes) -> FareRequest:
    """The request in a body, in any of MLflow's JSON forms.

    Raises:
        RequestError: the body breaks the contract; the message names field, row, value and range.
    """
    return read(_json(body))


def read(payload: object) -> FareRequest:
    """The request in a parsed payload; see `parse`. What is refused keeps its sender's id."""
    if not isinstance(payload, dict):
        raise _malformed("The body must be a JSON object", payload, _one_form())
    try:
        return _read(payload)
    except RequestError as error:
        client_id = payload.get("client_request_id")
        error.client_request_id = client_id if _is_id(client_id) else None
        raise


def _read(payload: dict[str, Any]) -> FareRequest:
    forms = [name for name in FORMS if name in payload]
    if len(forms) != 1:
        raise _malformed("The body must hold exactly one form of rows", forms, _one_form())
    for name in payload:
        if name not in _ENVELOPE:
            raise _malformed("Unknown key beside the rows", name, f"Known: {sorted(_ENVELOPE)}")
    interval, explain, client_id = _options(payload)
    form, rows = forms[0], payload[forms[0]]
    if form == "dataframe_split":
        columns = _from_split(rows)
    elif form == "inputs" and isinstance(rows, dict):
        columns = _from_columns(rows)
    else:
        columns = _from_records(form, rows)
    return of_columns(columns, client_id, interval, explain)


def of_columns(
    columns: Columns,
    client_request_id: str | None = None,
    interval: bool = False,
    explain: bool = False,
) -> FareRequest:
    """The request of `FIELDS` and the trip type, a plain value for each row; see `FareRequest`.

    Raises:
        RequestError: a value breaks the contract; the message names field, row, value and range.
    """
    return FareRequest(
        _checked(columns, "pickup_location_id", _LOCATIONS),
        _checked(columns, "dropoff_location_id", _LOCATIONS),
        _checked(columns, "trip_distance", _DISTANCES),
        _checked(columns, "pickup_datetime", _TIMES),
        _checked(columns, TRIP_TYPE, _TRIP_TYPES),
        client_request_id,
        interval,
        explain,
    )


def _options(payload: dict[str, Any]) -> tuple[bool, bool, str | None]:
    """What is asked beside the rows: interval, features, and the request's id at its sender."""
    if len(payload) == 1:  # the rows alone
        return False, False, None
    for name in ("params", "extra_params"):
        if not isinstance(payload.get(name) or {}, dict):
            raise _malformed(f"{name} must be an object", payload[name], "Leave it out")
    params = payload.get("params") or {}
    interval, explain = (_flag(params, name) for name in ("interval", "features"))
    client_id = payload.get("client_request_id")
    if client_id is not None and not _is_id(client_id):
        raise _malformed(
            "client_request_id must be a printable text of at most 256 characters",
            client_id,
            "Leave it out",
        )
    return interval, explain, client_id


def _flag(params: dict[str, Any], name: str) -> bool:
    value = params.get(name, False)
    if not isinstance(value, bool):
        raise _malformed(f"params.{name} must be true or false", value, "Leave it out")
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 256 and value.isprintable()


def _json(body: bytes) -> object:
    import orjson  # a cluster, where captured requests are read again, need not have it

    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as strict:
        # NaN and Infinity are no JSON, but Python's own encoder writes them: read on, so that
        # the answer names the field they stand in.
        try:
            return json.loads(body.decode())  # of bytes it would guess the encoding
        except (ValueError, RecursionError):
            raise _malformed("The body must be JSON", str(strict)[:120], _one_form()) from None


def _from_records(form: str, rows: object) -> Columns:
    if not isinstance(rows, list):
        raise _malformed(f"{form} must be a list of objects", rows, _one_form())
    _count(form, len(rows))
    for index, record in enumerate(rows):
        if not isinstance(record, dict):
            raise _malformed(f"Row {index} of {form} must be an object", record, _one_form())
    names = rows[0].keys()
    for index, record in enumerate(rows):
        if index == 0 or record.keys() != names:
            _known(record.keys(), index)
    columns = {name: [record[name] for record in rows] for name in FIELDS}
    return columns | {TRIP_TYPE: [record.get(TRIP_TYPE) for record in rows]}


def _from_split(split: object) -> Columns:
    if not isinstance(split, dict) or not {"columns", "data"} <= split.keys() <= {
        "columns",
        "data",
        "index",
    }:
        raise _malformed("dataframe_split must hold columns and data", split, _one_form())
    names, data = split["columns"], split["data"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _malformed("columns of dataframe_split must be a list of names", names, _one_form())
    if len(set(names)) != len(names):
        raise _malformed("columns of dataframe_split must be unique", names, "Send each once")
    if not isinstance(data, list):
        raise _malformed("data of dataframe_split must be a list of rows", data, _one_form())
    _count("dataframe_split", len(data))
    index = split.get("index")
    if index is not None and (not isinstance(index, list) or len(index) != len(data)):
        raise _malformed("index of dataframe_split must be as long as data", index, "Leave it out")
    for row, values in enumerate(data):
        if not isinstance(values, list) or len(values) != len(names):
            raise _malformed(
                f"Row {row} of dataframe_split must be a list of {len(names)} values",
                values,
                "Send one value for each column",
            )
    _known(names, 0)
    places = {name: names.index(name) for name in _TAKEN if name in names}
    found = {name: [row[place] for row in data] for name, place in places.items()}
    return {TRIP_TYPE: [None] * len(data)} | found


def _from_columns(columns: dict[str, Any]) -> Columns:
    for name, values in columns.items():
        if not isinstance(values, list):
            raise _malformed(f"inputs: {_shown(name)} must be a list", values, _one_form())
    _known(columns.keys(), 0)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise _malformed("inputs: all columns must be equally long", lengths, "Send whole rows")
    rows = len(columns[FIELDS[0]])
    _count("inputs", rows)
    return {name: columns.get(name, [None] * rows) for name in _TAKEN}


def _count(form: str, rows: int) -> None:
    if not 1 <= rows <= MAX_ROWS:
        raise RequestError(
            f"{form} must hold 1 to {MAX_ROWS:,} rows", rows, "Split the rows over several requests"
        )


def _known(names: Any, row: int) -> None:
    """Every field needed and none that the contract does not know."""
    if names == _NEEDED:
        return
    for name in names:
        if name in _TAKEN or name in IGNORED:
            continue
        if name in LOOKED_UP:
            raise RequestError(
                f"Row {row}: a looked-up feature may not be sent", name, "Remove it: the online "
                "tables answer it by location"
            )  # fmt: skip
        raise RequestError(
            f"Row {row}: unknown field", _shown(name), f"Send {', '.join(FIELDS)} and nothing else"
        )
    for name in FIELDS:
        if name not in names:
            raise RequestError(f"Row {row}: a field is missing", name, f"Send {', '.join(FIELDS)}")


PICKUP_RULE = (
    "a New York wall-clock time as text, YYYY-MM-DD HH:MM:SS without an offset, "
    f"from {FIRST_PICKUP:%Y-%m-%d} until {LAST_PICKUP:%Y-%m-%d}"
)


def _location(value: object) -> int | None:
    if type(value) is int or (type(value) is float and value.is_integer()):
        number = int(value)
        return number if FIRST_LOCATION <= number <= LAST_LOCATION else None
    return None


def _locations(values: Sequence[Any]) -> NDArray[Any] | None:
    if {*map(type, values)} != {int}:
        return None
    found = np.array(values, np.int64)
    return found if found.min() >= FIRST_LOCATION and found.max() <= LAST_LOCATION else None


def _trip_type(value: object) -> int | None:
    if value is None:
        return NOT_TOLD
    known = type(value) in (int, float) and value in (NOT_TOLD, *TRIP_TYPES)
    return int(value) if known else None  # type: ignore[call-overload]


def _trip_types(values: Sequence[Any]) -> NDArray[Any] | None:
    return np.full(len(values), NOT_TOLD) if {*values} == {None} else None


def _miles(value: object) -> float | None:
    if type(value) is float or type(value) is int:
        return value if 0 < value <= MOST_MILES else None
    return None


def _distances(values: Sequence[Any]) -> NDArray[Any] | None:
    if not {*map(type, values)} <= {int, float}:
        return None
    found = np.array(values, np.float64)
    return found if found.min() > 0 and found.max() <= MOST_MILES else None  # NaN is neither


def _time(value: object) -> int | None:
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        return None
    try:
        at = datetime.fromisoformat(value[: len(_SHAPE)])
    except ValueError:
        return None
    return (at - _EPOCH) // _MICROSECOND if FIRST_PICKUP <= at < LAST_PICKUP else None


def _times(values: Sequence[Any]) -> NDArray[Any] | None:
    """Of texts of whole seconds, all at once; numpy alone would take other forms, too."""
    if {*map(type, values)} != {str} or {*map(len, values)} != {len(_SHAPE)}:
        return None
    text = "".join(values)
    if not text.isascii():
        return None
    letters = np.frombuffer(text.encode(), np.uint8).reshape(-1, len(_SHAPE))
    digits = letters[:, _DIGITS] - ord("0")  # what comes before "0" wraps around
    marks = letters[:, [4, 7, 13, 16]] == [ord(mark) for mark in "--::"]
    between = {*letters[:, 10].tolist()} <= {ord(" "), ord("T")}
    if not (between and marks.all() and digits.max() <= 9):
        return None
    try:
        at = np.array(values, "datetime64[s]")
    except ValueError:  # there is no such day or hour
        return None
    within = np.datetime64(FIRST_PICKUP) <= at.min() and at.max() < np.datetime64(LAST_PICKUP)
    return at.astype(np.int64) * 1_000_000 if within else None


_SHAPE = "YYYY-MM-DD HH:MM:SS"
_DIGITS = [place for place, letter in enumerate(_SHAPE) if letter.isalpha()]


class _Field(NamedTuple):
    """How a field is read: all values at once, None where one must be looked at; one by one."""

    rule: str
    kind: type
    of_one: Callable[[object], Any]
    of_many: Callable[[Sequence[Any]], NDArray[Any] | None]


_LOCATIONS = _Field(
    f"a whole number from {FIRST_LOCATION} to {LAST_LOCATION}", np.int64, _location, _locations
)
_DISTANCES = _Field(
    f"a number above 0 and at most {MOST_MILES:g} (miles)", np.float64, _miles, _distances
)
_TIMES = _Field(PICKUP_RULE, np.int64, _time, _times)
_TRIP_TYPES = _Field(
    "1 (street hail), 2 (dispatch), or left out", np.int64, _trip_type, _trip_types
)


def _checked(columns: Columns, name: str, field: _Field) -> NDArray[Any]:
    given = columns[name]
    if len(given) >= _FEW:
        try:
            at_once = field.of_many(given)
        except (OverflowError, TypeError):  # a number or a value beyond all that is allowed
            at_once = None
        if at_once is not None:
            return at_once
    values = [field.of_one(value) for value in given]
    if None in values:
        row = values.index(None)
        raise RequestError(
            f"Row {row}: {name} must be {field.rule}", _shown(given[row]), "Correct the value"
        )
    return np.array(values, dtype=field.kind)


def _shown(value: object) -> str:
    """A value as the sender wrote it, cut to what a message can carry."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _malformed(rule: str, value: object, remedy: str) -> RequestError:
    return RequestError(rule, _shown(value), remedy, code="BAD_REQUEST")


def _one_form() -> str:
    return f"Send one of {', '.join(FORMS)}"
