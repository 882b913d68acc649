"""Frameloom for Python: functions as filters of distributed video jobs, and a client.

``frameloom.celery.frame_task`` needs the extra ``celery``, ``Client`` and ``AsyncClient`` the
extra ``client``; each is loaded only where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frameloom.errors import Error

if TYPE_CHECKING:
    from frameloom.aio import AsyncClient, AsyncJob
    from frameloom.client import Client, Job

__all__ = ["AsyncClient", "AsyncJob", "Client", "Error", "Job"]


def __getattr__(name: str) -> Any:
    if name in ("Client", "Job"):
        from frameloom import client

        return getattr(client, name)
    if name in ("AsyncClient", "AsyncJob"):
        from frameloom import aio

        return getattr(aio, name)
    raise AttributeError(f"module 'frameloom' has no attribute '{name}'")
