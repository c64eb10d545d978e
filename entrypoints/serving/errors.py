"""Errors in the format of OpenAI's API."""

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
    """An error response.

    Args:
        status: the HTTP status.
        message: the error and its remedy.
        param: the invalid field, if any.
        code: an identifier for programs, if any.
        headers: further headers.
        cause: details for the log, which the client does not see.
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
        """Return its fields in the log."""
        fields = {"error": self.message, "param": self.param, "cause": self.cause}
        return {name: value for name, value in fields.items() if value}

    def body(self) -> dict[str, Any]:
        """Return the body of the response."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}
