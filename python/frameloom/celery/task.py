"""The decorator that makes a Celery task of a function on frames."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NoReturn

from celery import Celery, current_task
from celery.signals import worker_init

from frameloom.celery import arrays
from frameloom.celery.attempt import Attempt, Gone, tellable, told, traced
from frameloom.celery.message import FrameRef, Message, Rejected
from frameloom.celery.store import Store, StoreError, StoreTrouble, Unsafe, blamed

logger = logging.getLogger(__name__)

#: Seconds between looks for an input that is not there.
_LATE = (0.05, 0.1, 0.2, 0.4)


def frame_task(
    app: Celery, *, name: str, timeout: float = 300, frames: int = 1, **options: Any
) -> Callable[[Callable[..., arrays.Frame]], Any]:
    """Registers ``f(frame, *, pts, index, params)`` as the Celery task ``name``.

    ``frame`` is a read-only map or copy of height by width by 3, uint8, RGB; the function returns
    an array of the same shape and type. With ``frames=8`` it gets up to eight frames at once, as
    one array with their number before the height, and lists as ``pts`` and ``index``.

    ``timeout`` is in seconds from the claim, where the message tells none; waiting in a queue
    never counts. ``options`` go to Celery's ``app.task``. The task's attribute ``function`` is
    the function itself, for tests.
    """
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    if timeout <= 0:
        raise ValueError(f"timeout: expected more than 0 seconds, got {timeout}")
    worker_init.connect(_refuse_without_store, dispatch_uid="frameloom.celery", weak=False)
    settings: dict[str, Any] = {
        "acks_late": True,
        "acks_on_failure_or_timeout": True,
        "reject_on_worker_lost": False,
        "ignore_result": True,
        "max_retries": 0,
        "typing": False,
        **options,
        "name": name,
    }

    def register(function: Callable[..., arrays.Frame]) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> str:
            return perform(function, name, timeout, frames, args, kwargs)

        return app.task(**settings, function=staticmethod(function))(run)

    return register


def perform(
    function: Callable[..., arrays.Frame],
    name: str,
    timeout: float,
    frames: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str:
    """Obeys one message of the task ``name``; answers in words what became of it.

    Nobody keeps the answer; it is what Celery logs and Flower shows. Raises what the function
    raised, or a RuntimeError about it where that would harm the worker or its log.
    """
    try:
        message = Message.parse(args, kwargs)
        store = Store.from_environment()
        if message.store != store.id:
            raise Rejected(
                f"store: the message is of store {message.store}, '{store.root}' is {store.id}; "
                "mount the directory that the server has as --data"
            )
        attempt = Attempt(store, message, message.timeout or timeout)
        attempt.claim()
    except Gone as reason:
        return f"dropped: {reason}"
    except (Rejected, StoreError, Unsafe, OSError) as reason:
        logger.warning("task %s%s: message rejected: %s", name, _origin(), reason)
        return f"rejected: {reason}"
    try:
        with attempt:
            for some in _chunks(message.frames, frames):
                _process(function, name, store, message, some, attempt, batch=frames > 1)
            attempt.succeed()
    except Gone as reason:
        return f"dropped: {reason}"
    except BaseException as error:
        # Whatever it is, gevent.Timeout, too: a claim without a result keeps the server waiting.
        try:
            attempt.fail(error)
        except Gone as reason:
            return f"dropped: {reason}"
        _raise(name, error)
    return "done"


def _raise(name: str, error: BaseException) -> NoReturn:
    """Raises an error on to Celery, in a form that it can log and that ends no worker."""
    if isinstance(error, Exception) and not tellable(error):
        raise RuntimeError(f"'{name}' raised {told(error)}\n{traced(error)}") from None
    if isinstance(error, Exception | KeyboardInterrupt):
        raise error
    what = "called exit" if isinstance(error, SystemExit) else f"raised {told(error)}"
    raise RuntimeError(f"'{name}' {what}") from error


def _origin() -> str:
    """The message's id and who sent it, as far as it says."""
    request = getattr(current_task, "request", None)
    task, origin = (repr(getattr(request, field, None))[:80] for field in ("id", "origin"))
    return f"[{task}] from {origin}"


def _chunks(frames: tuple[FrameRef, ...], size: int) -> list[tuple[FrameRef, ...]]:
    return [frames[at : at + size] for at in range(0, len(frames), size)]


def _process(
    function: Callable[..., arrays.Frame],
    name: str,
    store: Store,
    message: Message,
    refs: Sequence[FrameRef],
    attempt: Attempt,
    *,
    batch: bool,
) -> None:
    """Has the function work on some frames, and publishes what it returns."""
    directory = ("frames", message.job)
    with contextlib.ExitStack() as files:
        inputs = []
        for ref in refs:
            with blamed():
                file = files.enter_context(_input(store, directory, ref.input))
                inputs.append(arrays.opened(file, ref.input))
    if batch:
        given = arrays.stacked(inputs)
        pts: Any = [ref.pts for ref in refs]
        index: Any = [ref.index for ref in refs]
    else:
        given, pts, index = inputs[0], refs[0].pts, refs[0].index
    answer = function(given, pts=pts, index=index, params=dict(message.params))
    outputs = arrays.checked(answer, given.shape, name)
    for ref, output in zip(refs, outputs if batch else [outputs], strict=True):
        if attempt.over:
            return
        with blamed():
            store.replace(
                directory,
                ref.output,
                functools.partial(arrays.write, frame=output),
                f"{ref.output}.{message.attempt}.tmp",
            )


def _input(store: Store, directory: tuple[str, ...], name: str) -> BinaryIO:
    """Opens an input; a network file system may show it late."""
    for pause in (*_LATE, None):
        try:
            store.look_for(directory, name)
            return store.open_file(directory, name)
        except FileNotFoundError as error:
            if pause is None:
                where = "/".join((*directory, name))
                raise StoreTrouble(f"input '{where}' is not there") from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _refuse_without_store(**_: Any) -> None:
    """Ends a worker at its start where its store is not there."""
    try:
        Store.from_environment()
    except StoreError as reason:
        raise SystemExit(f"frameloom: error: {reason}") from None
