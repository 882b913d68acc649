"""A client for Frameloom servers that blocks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack, cast

import httpx

from frameloom import protocol
from frameloom.errors import Error
from frameloom.http import QUIET, converted, headers, problem, verification
from frameloom.protocol import PAUSES, PIECE, Pause, Reply, Request, Slice, Steps
from frameloom.stream import EventReader, Progress, ProgressLine, Target, pieces
from frameloom.types import OVER, Event, Filter, JobOptions, JobView, ScaleView, State, WorkerView

T = TypeVar("T")


class Client:
    """A connection to a server.

    ``token`` is one of the server's ``--tokens``; ``cafile`` a file of certificates to trust
    instead of the system's. Close it, or use it in a ``with`` statement.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        cafile: str | os.PathLike[str] | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url, headers=headers(token), verify=verification(cafile), timeout=QUIET
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def submit(
        self,
        path: str | os.PathLike[str],
        filters: Iterable[str] = (),
        *,
        upload: bool = True,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Makes a job and sends its source, which goes on where a connection drops.

        With ``upload=False`` the path is one on the server, under its ``--allow-path``.
        """
        size = Path(path).stat().st_size if upload else None
        description = protocol.job_request(path, filters, options, size)
        view = self._run(protocol.create(description))
        job = Job(self, view["id"])
        if size is not None:
            try:
                self._run(protocol.upload(view, Path(path), size))
            except Error:
                with contextlib.suppress(Error):
                    job.cancel()
                raise
        return job

    def job(self, job_id: str) -> Job:
        """A job by its id."""
        return Job(self, job_id)

    def jobs(self, state: State | None = None, sort: str | None = None) -> Iterator[JobView]:
        """All jobs, newest first unless ``sort`` is ``created``, ``priority`` or ``-priority``."""
        after: str | None = None
        while True:
            page = self._run(protocol.page(state, sort, after))
            yield from page["jobs"]
            after = page.get("next")
            if not after:
                return

    def filters(self) -> list[Filter]:
        """The filters there are, with their parameters."""
        return cast(list[Filter], self._run(protocol.listing("/v1/filters")))

    def workers(self) -> list[WorkerView]:
        """The worker nodes that have told of themselves."""
        return cast(list[WorkerView], self._run(protocol.listing("/v1/workers")))

    def scale(self) -> ScaleView:
        """How many slots the open jobs of all owners could use, and how many there are."""
        return cast(ScaleView, self._run(protocol.listing("/v1/scale")))

    def _run(self, steps: Steps[T]) -> T:
        """Does what the steps ask for."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    reply = self._send(step)
                except Error as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as end:
            return cast(T, end.value)

    def _send(self, request: Request) -> Reply:
        body: Any = request.body
        if isinstance(body, Slice):
            body = pieces(body)
        with converted():
            reply = self._http.request(
                request.method,
                request.path,
                headers=dict(request.headers),
                params=dict(request.params),
                content=body,
            )
        if reply.status_code >= 400:
            raise problem(reply.status_code, reply.content)
        return Reply(reply.status_code, reply.headers, reply.content)


class Job:
    """A job on a server."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.id = job_id
        self._client = client

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> JobView:
        """Where it stands."""
        return self._client._run(protocol.status(self.id))

    def cancel(self) -> None:
        """Stops it."""
        self._client._run(protocol.cancel(self.id))

    def events(self, after: int = 0) -> Iterator[Event]:
        """What happens to it, from the event after this one to its end.

        Goes on where a connection drops.
        """
        reader, tries = EventReader(after), 0
        while True:
            try:
                with (
                    converted(),
                    self._client._http.stream(
                        "GET",
                        protocol.job_path(self.id, "/events"),
                        headers={"Last-Event-ID": str(reader.last)},
                    ) as reply,
                ):
                    if reply.status_code >= 400:
                        raise problem(reply.status_code, reply.read())
                    for line in reply.iter_lines():
                        if event := reader.line(line):
                            tries = 0
                            yield event
                if self.status()["state"] in OVER:
                    return
            except Error as error:
                if not protocol.retryable(error) or tries == len(PAUSES):
                    raise
            reader = EventReader(reader.last)
            time.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1

    def wait(self, progress: bool | Progress = False) -> JobView:
        """Waits for its end; answers the job, or raises why there is no output.

        ``progress=True`` tells of it in a line on standard error; a function is called with the
        job whenever something has changed.
        """
        tell = ProgressLine() if progress is True else progress or None
        try:
            view = self.status()
            if tell:
                tell(view)
            for event in self.events() if view["state"] not in OVER else ():
                if event["event"] in ("progress", "end"):
                    view = cast(JobView, event["data"])
                    if tell:
                        tell(view)
        finally:
            if isinstance(tell, ProgressLine):
                tell.close()
        view = self.status()
        if error := protocol.failure(view):
            raise error
        return view

    def download(self, to: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Saves the output to a file, or under its own name in a directory; answers the path.

        The file appears when it is whole.
        """
        name, tries = protocol.output_name(self.status()), 0
        with Target(to, name, overwrite=overwrite) as target:
            while True:
                before = target.size
                try:
                    self._fetch(target)
                    break
                except Error as error:
                    tries = 0 if target.size > before else tries + 1
                    if not protocol.retryable(error) or tries == len(PAUSES):
                        raise
                    time.sleep(PAUSES[tries])
        return target.path

    def _fetch(self, target: Target) -> None:
        ask = protocol.output_request(target.headers(), self.id)
        http = self._client._http
        with converted(), http.stream(ask.method, ask.path, headers=dict(ask.headers)) as reply:
            if reply.status_code >= 400:
                raise problem(reply.status_code, reply.read())
            target.begin(reply.status_code, reply.headers)
            for piece in reply.iter_bytes(PIECE):
                target.write(piece)
