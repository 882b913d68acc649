"""The client of ``frameloom.client`` for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
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


class AsyncClient:
    """A connection to a server, as ``Client``."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        cafile: str | os.PathLike[str] | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers(token), verify=verification(cafile), timeout=QUIET
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def submit(
        self,
        path: str | os.PathLike[str],
        filters: Iterable[str] = (),
        *,
        upload: bool = True,
        **options: Unpack[JobOptions],
    ) -> AsyncJob:
        """Makes a job and sends its source, as ``Client.submit``."""
        size = (await asyncio.to_thread(os.stat, path)).st_size if upload else None
        description = protocol.job_request(path, filters, options, size)
        view = await self._run(protocol.create(description))
        job = AsyncJob(self, view["id"])
        if size is not None:
            try:
                await self._run(protocol.upload(view, Path(path), size))
            except Error:
                with contextlib.suppress(Error):
                    await job.cancel()
                raise
        return job

    def job(self, job_id: str) -> AsyncJob:
        """A job by its id."""
        return AsyncJob(self, job_id)

    async def jobs(
        self, state: State | None = None, sort: str | None = None
    ) -> AsyncIterator[JobView]:
        """All jobs, as ``Client.jobs``."""
        after: str | None = None
        while True:
            page = await self._run(protocol.page(state, sort, after))
            for view in page["jobs"]:
                yield view
            after = page.get("next")
            if not after:
                return

    async def filters(self) -> list[Filter]:
        """The filters there are, with their parameters."""
        return cast(list[Filter], await self._run(protocol.listing("/v1/filters")))

    async def workers(self) -> list[WorkerView]:
        """The worker nodes that have told of themselves."""
        return cast(list[WorkerView], await self._run(protocol.listing("/v1/workers")))

    async def scale(self) -> ScaleView:
        """How many slots the open jobs of all owners could use, and how many there are."""
        return cast(ScaleView, await self._run(protocol.listing("/v1/scale")))

    async def _run(self, steps: Steps[T]) -> T:
        """Does what the steps ask for."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    reply = await self._send(step)
                except Error as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as end:
            return cast(T, end.value)

    async def _send(self, request: Request) -> Reply:
        body: Any = request.body
        if isinstance(body, Slice):
            body = _pieces(body)
        with converted():
            reply = await self._http.request(
                request.method,
                request.path,
                headers=dict(request.headers),
                params=dict(request.params),
                content=body,
            )
        if reply.status_code >= 400:
            raise problem(reply.status_code, reply.content)
        return Reply(reply.status_code, reply.headers, reply.content)


class AsyncJob:
    """A job on a server, as ``Job``."""

    def __init__(self, client: AsyncClient, job_id: str) -> None:
        self.id = job_id
        self._client = client

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r})"

    async def status(self) -> JobView:
        """Where it stands."""
        return await self._client._run(protocol.status(self.id))

    async def cancel(self) -> None:
        """Stops it."""
        await self._client._run(protocol.cancel(self.id))

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """What happens to it, as ``Job.events``."""
        reader, tries = EventReader(after), 0
        while True:
            try:
                with converted():
                    async with self._client._http.stream(
                        "GET",
                        protocol.job_path(self.id, "/events"),
                        headers={"Last-Event-ID": str(reader.last)},
                    ) as reply:
                        if reply.status_code >= 400:
                            raise problem(reply.status_code, await reply.aread())
                        async for line in reply.aiter_lines():
                            if event := reader.line(line):
                                tries = 0
                                yield event
                if (await self.status())["state"] in OVER:
                    return
            except Error as error:
                if not protocol.retryable(error) or tries == len(PAUSES):
                    raise
            reader = EventReader(reader.last)
            await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1

    async def wait(self, progress: bool | Progress = False) -> JobView:
        """Waits for its end, as ``Job.wait``."""
        tell = ProgressLine() if progress is True else progress or None
        try:
            view = await self.status()
            if tell:
                tell(view)
            if view["state"] not in OVER:
                async for event in self.events():
                    if event["event"] in ("progress", "end"):
                        view = cast(JobView, event["data"])
                        if tell:
                            tell(view)
        finally:
            if isinstance(tell, ProgressLine):
                tell.close()
        view = await self.status()
        if error := protocol.failure(view):
            raise error
        return view

    async def download(self, to: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Saves the output, as ``Job.download``."""
        name, tries = protocol.output_name(await self.status()), 0
        with Target(to, name, overwrite=overwrite) as target:
            while True:
                before = target.size
                try:
                    await self._fetch(target)
                    break
                except Error as error:
                    tries = 0 if target.size > before else tries + 1
                    if not protocol.retryable(error) or tries == len(PAUSES):
                        raise
                    await asyncio.sleep(PAUSES[tries])
        return target.path

    async def _fetch(self, target: Target) -> None:
        ask = protocol.output_request(target.headers(), self.id)
        http = self._client._http
        with converted():
            async with http.stream(ask.method, ask.path, headers=dict(ask.headers)) as reply:
                if reply.status_code >= 400:
                    raise problem(reply.status_code, await reply.aread())
                target.begin(reply.status_code, reply.headers)
                async for piece in reply.aiter_bytes(PIECE):
                    await asyncio.to_thread(target.write, piece)


async def _pieces(body: Slice) -> AsyncIterator[bytes]:
    """A body's pieces, read in a thread so that a slow disk holds nobody up."""
    iterator = pieces(body)
    try:
        while piece := await asyncio.to_thread(next, iterator, b""):
            yield piece
    finally:
        iterator.close()
