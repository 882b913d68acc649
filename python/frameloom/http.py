"""What both clients have of httpx in common: settings, and its errors made ours."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import Iterator

try:
    import httpx
except ImportError as error:
    raise ImportError(
        "the client needs httpx: pip install 'frameloom[client]'", name=error.name
    ) from error

from frameloom.errors import Error

#: Seconds of silence after which a connection is given up; events are kept alive more often.
QUIET = httpx.Timeout(60, connect=10)


def headers(token: str | None) -> dict[str, str]:
    """Headers of each request."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def verification(cafile: str | os.PathLike[str] | None) -> ssl.SSLContext | bool:
    """Which certificates are trusted."""
    if cafile is None:
        return True
    try:
        return ssl.create_default_context(cafile=os.fspath(cafile))
    except (OSError, ssl.SSLError) as error:
        raise Error("invalid", f"cafile '{os.fspath(cafile)}' cannot be read: {error}") from error


def problem(status: int, body: bytes) -> Error:
    """The error that a reply tells of."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"kind": _KINDS.get(status, "internal")}
    return Error.from_problem(status, document)


@contextlib.contextmanager
def converted() -> Iterator[None]:
    """Makes an error of the connection one of ours."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Error("invalid", f"not a server's address: {error}") from error
    except httpx.LocalProtocolError as error:
        raise Error("invalid", f"this cannot be sent: {error}") from error
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            raise Error("invalid", f"the server is not trusted: {reason}; pass cafile=") from error
        raise Error("unavailable", f"the server does not answer: {reason}") from error


# A HEAD has no body, and a proxy's page is no problem document.
_KINDS = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    429: "exhausted",
    502: "unavailable",
    503: "unavailable",
    504: "timeout",
    507: "exhausted",
}
