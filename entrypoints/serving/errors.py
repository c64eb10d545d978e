"""Errors as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ApiError"]

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP's.
        message: what is wrong, and what to do about it.
        param: the field that is wrong, if one is.
        code: a word for programs, if there is one.
        headers: that go with it.
        cause: what the log says besides, and the client does not see.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        cause: str = "",
    ) -> None:
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.cause = cause
        super().__init__(message)

    def log_fields(self) -> dict[str, str]:
        """Return what the log says of it."""
        fields = {"error": self.message, "param": self.param, "cause": self.cause}
        return {name: value for name, value in fields.items() if value}

    def body(self) -> dict[str, Any]:
        """Return the object that says so."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}
