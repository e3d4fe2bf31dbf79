"""The borough of a taxi zone: TLC's zone list as one letter a zone; no lookup file is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from pyspark.sql import Column

_NAMES = {
    "B": "Bronx",
    "E": "Newark",
    "K": "Brooklyn",
    "M": "Manhattan",
    "Q": "Queens",
    "S": "Staten Island",
    "-": "unknown",
}
# Zones 1 to 265 as the Taxi & Limousine Commission numbers them (by name, not by place).
_ZONES = (
    "EQBMSSQQQQKMMKQQKBQBKKSMKKQQKQBBKKKKKQKKMMMSMBBMKM"
    "BKQKKQQBBBKKKQKKKMBQKKQMMKKBMKBQQSKQMMKMKQQBQQKQSM"
    "QQMMMKMKSSKKMMSMQSBMQQKQMBMMQQQQKQQBMQQMMMMMQQBMKK"
    "MMMKKSQMBQMMMMKMBBBMQSQBQSKKQQKBBBBMSKKKQQQMKQQQBB"
    "QMQSQSQBMKMBBSQQKQQBSKQMKQKKMMMMMMBMMMMBBBMMSMBBMB"
    "SQQBKKKQBQMMM--"
)


NAMES = tuple(_NAMES.values())
IDS = len(_ZONES)
ZONES = sum(letter != "-" for letter in _ZONES)  # 264 and 265 stand for an unknown place
_PLACES = [NAMES.index(_NAMES[letter]) for letter in "-" + _ZONES]


def places(locations: Any) -> np.ndarray[Any, Any]:
    """Location ids (rows,) → places in `NAMES` (rows,); zip codes and no zones are `unknown`."""
    import numpy as np

    ids = np.asarray(locations)
    found: np.ndarray[Any, Any] = np.array(_PLACES)[np.where((ids >= 1) & (ids <= IDS), ids, 0)]
    return found


def boroughs(locations: Any) -> np.ndarray[Any, Any]:
    """Location ids (rows,) → names of boroughs (rows,)."""
    import numpy as np

    found: np.ndarray[Any, Any] = np.array(NAMES)[places(locations)]
    return found


def borough(location: Column) -> Column:
    """The same for Spark: a column of location ids → the names of their boroughs."""
    from pyspark.sql import functions as F

    zones = F.array(*(F.lit(_NAMES[letter]) for letter in _ZONES))
    known = location.between(1, IDS)
    return F.when(known, F.element_at(zones, location.cast("int"))).otherwise("unknown")
