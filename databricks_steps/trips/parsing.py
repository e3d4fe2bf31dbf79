"""From a value of any type that publishers use to a value of ours, or null.

Whole columns at a time, as Arrow arrays; nothing here raises on a bad value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from databricks_steps import schemas

_BLANK = "".join(map(chr, range(0x21)))  # as Java trims: control characters and the space
_MISSING = ("", "null", "none", "nan", "nat", "n/a", "\\n")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_WHOLE = r"^[+-]?\d+(\.0*)?$"
_PLAIN_TIME = r"^\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}$"
# A zone at the end would shift the time: only UTC is let through, and New York's own.
_ISO_TIME = (
    r"^(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})[ T](?P<hour>\d{1,2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?: ?UTC|Z| ?[+-]00(?::?00)?| ?-0[45]:?00)?$"
)
# Month first, as American spreadsheets write it, with and without AM and PM.
_AMERICAN_TIME = (
    r"^(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4}) (?P<hour>\d{1,2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?: (?P<half>[AaPp][Mm]))?)?$"
)
# Without signs between, as databases write it.
_COMPACT_TIME = (
    r"^(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})[ T](?P<hour>\d{2}):?(?P<minute>\d{2})"
    r"(?::?(?P<second>\d{2}))?$"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NAMED_MONTH = r"^(\d{4}) %s (\d{1,2}) "  # 2015 Jan 04 06:17:33 PM, as NYC Open Data exported it
_FIRST_SECOND, _END_SECOND = -62_135_596_800, 253_402_300_800  # of the years 1 to 9999, from 1970
_A_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def present(array: pa.Array) -> pa.Array:
    """The values (rows,), or null for what publishers write when there is none (empty text, NaN).

    Text comes trimmed; dictionaries are decoded; floats of 16 and 32 bits become doubles by their
    shortest text: 1.2, not 1.2000000476837158.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    array = _decoded(array)
    if pa.types.is_string(array.type):
        text = pc.utf8_trim(array, characters=_BLANK)
        missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(_MISSING))
        return _where(pc.invert(missing), text)
    if pa.types.is_floating(array.type):
        number = _double_by_text(array)
        return _where(pc.invert(pc.is_nan(number)), number)
    return array


def with_points(text: pa.Array) -> pa.Array:
    """Texts of numbers with decimal commas, as they are written with points: 1.234,5 as 1234.5."""
    import pyarrow.compute as pc

    plain = pc.replace_substring(pc.replace_substring(text, ".", ""), ",", ".")
    return pc.if_else(pc.match_substring(text, ","), plain, text)


def typed(array: pa.Array, kind: schemas.Type) -> pa.Array:
    """Present values (rows,) as `kind`; null where one cannot be read so.

    A timestamp has microseconds and no zone: it is the clock on the wall.
    """
    import pyarrow as pa

    if kind == "string":
        return _string(array)
    if kind == "timestamp":
        return _timestamp(array)
    if kind == "double":
        return _double(array)
    return _whole(array, pa.int32() if kind == "int" else pa.int64())


def _where(condition: pa.Array, array: pa.Array) -> pa.Array:
    """The values for which it is so; null for the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(condition, array, pa.scalar(None, array.type))


def _decoded(array: pa.Array) -> pa.Array:
    """Without dictionary or extension; any type of text and bytes as `string`."""
    import pyarrow as pa

    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        return _decoded(array.dictionary).take(array.indices)
    kind = array.type
    texts = (pa.string(), pa.large_string(), pa.string_view())
    of_bytes = (*texts, pa.binary(), pa.large_binary(), pa.binary_view())
    if kind not in of_bytes and not pa.types.is_fixed_size_binary(kind):
        return array
    content = array.cast(pa.binary())
    try:
        return content.cast(pa.string())
    except pa.ArrowInvalid:  # not UTF-8
        plain = (None if v is None else v.decode(errors="replace") for v in content.to_pylist())
        return pa.array(plain, pa.string())


def _double_by_text(array: pa.Array) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if pa.types.is_float16(array.type):  # Arrow's own text of it is that of 32 bits
        number = array.fill_null(np.float16(0)).to_numpy(zero_copy_only=False)
        unique, place = np.unique(number, return_inverse=True)
        doubles = np.array([float(str(value)) for value in unique])[place]
        return pa.array(doubles, mask=array.is_null().to_numpy(zero_copy_only=False))
    if pa.types.is_float32(array.type):
        return array.cast(pa.string()).cast(pa.float64())
    return array


def _string(array: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_floating(array.type):  # 1.0, where Arrow writes 1
        encoded = array.dictionary_encode()
        texts = pa.array(map(repr, encoded.dictionary.to_pylist()), pa.string())
        return texts.take(encoded.indices)
    try:
        return array.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.nulls(len(array), pa.string())


def _double(array: pa.Array) -> pa.Array:
    """Finite doubles."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_string(kind):
        number = _number(array)
    elif pa.types.is_decimal(kind):
        number = array.cast(pa.string()).cast(pa.float64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        number = array.cast(pa.float64(), safe=False)
    else:
        return pa.nulls(len(array), pa.float64())
    return _where(pc.is_finite(number), number)


def _number(text: pa.Array) -> pa.Array:
    """Texts as doubles, not all finite; null for what is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid:  # some are no numbers: to find which takes longer
        return _where(pc.match_substring_regex(text, _NUMBER), text).cast(pa.float64())


def _whole(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Whole numbers within the range of `kind`, which is of 32 or 64 bits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    end: int = 1 << kind.bit_width - 1
    if pa.types.is_unsigned_integer(array.type):
        number = array.cast(pa.uint64())
        inside = pc.less(number, pa.scalar(end, pa.uint64()))
    elif pa.types.is_integer(array.type):
        number = array.cast(pa.int64())
        inside = pc.and_(pc.less_equal(-end, number), pc.less_equal(number, end - 1))
    else:
        if pa.types.is_string(array.type):
            array = _where(pc.match_substring_regex(array, _WHOLE), array)
        number = _double(array)
        inside = pc.and_(pc.less_equal(float(-end), number), pc.less(number, float(end)))
        inside = pc.and_(inside, pc.equal(number, pc.trunc(number)))
    return _where(inside, number).cast(kind, safe=False)


def _timestamp(array: pa.Array) -> pa.Array:
    """Times of the years 1 to 9999; those with a zone as its clocks showed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(array.type):
        return _text_time(array)
    if pa.types.is_date(array.type):
        array = array.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.int64())
        array = pc.multiply(array, 86_400).cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(array.type):
        return pa.nulls(len(array), pa.timestamp("us"))
    numbers, null = _whole_numbers(array)
    found = _in_years(_micros(numbers, array.type.unit), null)
    if array.type.tz is None:
        return found
    local = pc.local_timestamp(found.cast(pa.timestamp("us", array.type.tz)))
    return _in_years(*_whole_numbers(local))


def _whole_numbers(times: pa.Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Units since 1970 (rows,), 0 for null, and where they are null (rows,)."""
    import pyarrow as pa

    numbers = times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers, times.is_null().to_numpy(zero_copy_only=False)


def _micros(numbers: np.ndarray[Any, Any], unit: str) -> np.ndarray[Any, Any]:
    """Whole microseconds at or before; far outside the years 1 to 9999 what is there is wrong."""
    import numpy as np

    a_second = _A_SECOND[unit]
    if unit == "ns":
        return numbers // 1_000
    kept: np.ndarray[Any, Any] = np.clip(
        numbers, (_FIRST_SECOND - 1) * a_second, _END_SECOND * a_second
    )
    return kept * (_A_SECOND["us"] // a_second)


def _in_years(micros: np.ndarray[Any, Any], null: np.ndarray[Any, Any]) -> pa.Array:
    """Microseconds since 1970 (rows,) as timestamps; null where `null` or out of 1 to 9999."""
    import pyarrow as pa

    a_second = _A_SECOND["us"]
    out = (micros < _FIRST_SECOND * a_second) | (micros >= _END_SECOND * a_second)
    return pa.array(micros, pa.int64(), mask=null | out).cast(pa.timestamp("us"))


def _text_time(text: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pc.all(pc.match_substring_regex(text, _PLAIN_TIME)).as_py():
        try:
            return _in_years(*_whole_numbers(text.cast(pa.timestamp("us"))))
        except pa.ArrowInvalid:  # a day or an hour that there is not
            pass
    found = _text_time_of(text, _ISO_TIME)
    for pattern in (_AMERICAN_TIME, _COMPACT_TIME):
        if found.null_count > text.null_count:
            found = pc.coalesce(found, _text_time_of(text, pattern))
    if found.null_count > text.null_count:
        for number, name in enumerate(_MONTHS, 1):
            text = pc.replace_substring_regex(text, _NAMED_MONTH % name, rf"{number}/\2/\1 ")
        found = pc.coalesce(found, _text_time_of(text, _AMERICAN_TIME))
    return found


def _text_time_of(text: pa.Array, pattern: str) -> pa.Array:
    """Times written so; null where the text is not, and for days and hours that there are not."""
    import numpy as np
    import pyarrow.compute as pc

    parts = pc.extract_regex(text, pattern)
    names = {field.name for field in parts.type}
    part = {n: _digits(pc.struct_field(parts, n)) for n in names - {"half", "fraction"}}
    hour, right_hour = part["hour"], part["hour"] < 24
    if "half" in names:
        half = pc.utf8_upper(pc.struct_field(parts, "half")).fill_null("")
        am, pm = (pc.equal(half, h).to_numpy(zero_copy_only=False) for h in ("AM", "PM"))
        right_hour &= ~(am | pm) | ((hour >= 1) & (hour <= 12))
        hour = np.where(am | pm, hour % 12 + 12 * pm, hour)
    micros = np.zeros(len(text), np.int64)
    if "fraction" in names:
        fraction = pc.utf8_rpad(pc.struct_field(parts, "fraction"), 6, "0")
        micros = _digits(pc.utf8_slice_codeunits(fraction, 0, 6))
    first = ((part["year"] - 1970) * 12 + part["month"] - 1).astype("datetime64[M]")
    day = first.astype("datetime64[D]").astype(np.int64) + part["day"] - 1
    days = (first + 1).astype("datetime64[D]").astype(np.int64)
    right = right_hour & (part["minute"] < 60) & (part["second"] < 60)
    right &= (part["month"] >= 1) & (part["month"] <= 12) & (part["day"] >= 1) & (day < days)
    right &= parts.is_valid().to_numpy(zero_copy_only=False)
    seconds = ((day * 24 + hour) * 60 + part["minute"]) * 60 + part["second"]
    return _in_years(seconds * _A_SECOND["us"] + micros, ~right)


def _digits(text: pa.Array) -> np.ndarray[Any, Any]:
    """Texts of digits (rows,) as whole numbers; 0 for none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = pc.if_else(pc.equal(text, ""), "0", text).fill_null("0")
    found: np.ndarray[Any, Any] = filled.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return found
