"""A proxy that cuts connections, for tests of what goes on where one drops."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType


class Proxy:
    """Forwards connections to a port, and cuts some after so many bytes.

    ``up`` and ``down`` are lists of numbers of bytes: while there are some, the first is taken by
    the first connection on which that many have gone that way, which is cut.
    """

    def __init__(self, port: int, up: list[int] | None = None, down: list[int] | None = None):
        self.cuts = 0
        self._port = port
        self._left = {"up": list(up or []), "down": list(down or [])}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            ends = threading.Barrier(2)
            for source, sink, way in ((client, server, "up"), (server, client, "down")):
                threading.Thread(
                    target=self._forward, args=(source, sink, way, ends), daemon=True
                ).start()

    def _forward(
        self, source: socket.socket, sink: socket.socket, way: str, ends: threading.Barrier
    ) -> None:
        size, left = 0, self._left[way]
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 14):
                size += len(piece)
                if left and size >= left[0]:
                    left.pop(0)
                    self.cuts += 1
                    # A reset, not an end.
                    for end in (source, sink):
                        linger = struct.pack("ii", 1, 0)
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(threading.BrokenBarrierError):
            if ends.wait(30) == 0:
                source.close()
                sink.close()
