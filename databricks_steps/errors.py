"""The errors people read: each says the rule, the value that broke it and the remedy."""

from __future__ import annotations


class TaxiError(Exception):
    """Base of every error this project raises on purpose.

    The message is one line: what was expected, which value was found, what to do.
    """

    def __init__(self, rule: str, value: object, remedy: str) -> None:
        self.rule, self.value, self.remedy = rule, value, remedy
        super().__init__(f"{rule}: {value}. {remedy}")

    def __reduce__(self) -> tuple[type[TaxiError], tuple[str, object, str]]:
        return type(self), (self.rule, self.value, self.remedy)


def reason(error: BaseException) -> str:
    """The first line of why a request failed.

    Of a request that it asked again in vain Databricks' SDK tells for how long it did; why, the
    cause does, and of a connection that was never made the innermost of requests' errors.
    """
    while isinstance(error, TimeoutError) and error.__cause__ is not None:
        error = error.__cause__
    inner = getattr(error.args[0], "reason", None) if error.args else None
    lines = str(inner or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class SettingsError(TaxiError):
    """A setting, an option or the machine itself is not usable."""


class SourceError(TaxiError):
    """A source of trips cannot be found or read."""


class TableError(TaxiError):
    """A table is missing, or a write would break its contract."""


class ModelError(TaxiError):
    """A model, a version or an alias is missing or not usable."""


class ServingError(TaxiError):
    """The endpoint, the online tables or the emulator do not answer as they must."""


class RefusedError(ServingError):
    """A workspace refused a request with the HTTP status `status`."""

    status = 0
