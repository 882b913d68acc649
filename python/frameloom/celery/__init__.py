"""Python functions that ordinary Celery workers run on the frames of a job.

``frame_task`` makes a Celery task of a function that takes a frame and gives one back. Messages
name files in the store, a directory that server and workers share; no pixel goes through the
broker and there is no result backend.
"""

try:
    import celery as _celery  # noqa: F401
except ImportError as error:
    raise ImportError(
        "frameloom.celery needs Celery: pip install 'frameloom[celery]'", name=error.name
    ) from error

from frameloom.celery.task import frame_task

__all__ = ["frame_task"]
