"""The one error that the client raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Error(Exception):
    """What went wrong, as the server told it or as the client met it.

    ``kind`` is a stable word for programs (``invalid``, ``not_found``, ``exhausted``, … as in
    docs/errors.md), ``status`` the HTTP status or None where no reply came, ``detail`` a line
    for people.
    """

    def __init__(self, kind: str, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.status = status

    def __reduce__(self) -> tuple[type[Error], tuple[str, str, int | None]]:
        return (Error, (self.kind, self.detail, self.status))

    def __repr__(self) -> str:
        return f"Error(kind={self.kind!r}, status={self.status!r}, detail={self.detail!r})"

    @classmethod
    def from_problem(cls, status: int | None, problem: Mapping[str, Any]) -> Error:
        """Reads a problem document (RFC 9457)."""
        detail = problem.get("detail") or problem.get("title")
        code = problem.get("status", status)
        return cls(
            str(problem.get("kind") or "internal"),
            str(detail or f"the server answered with status {status} and no reason"),
            code if isinstance(code, int) else status,
        )
