"""The store: a directory that server and workers share, perhaps over a network.

Files are opened beneath the root, a component at a time, following no symlink. Directories are
opened anew for each use, and what a network file system calls stale is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

from frameloom.celery.arrays import is_local

#: Names the store's root to a worker.
VARIABLE = "FRAMELOOM_DATA"

_STALE_TRIES = 5
_STALE_PAUSE = 0.05
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_MARK_LIMIT = 4096

T = TypeVar("T")


class StoreError(Exception):
    """The store is not there or not what it should be, and what to do."""


class StoreTrouble(Exception):
    """The store could not be read or written: no function is to blame."""


class Unsafe(Exception):
    """A path that leads through a symlink, or to what is no file or directory."""


@contextlib.contextmanager
def blamed() -> Iterator[None]:
    """What the system says within is the store's trouble."""
    try:
        yield
    except OSError as error:
        raise StoreTrouble(f"store: {error.strerror or error}") from error


def not_stale(use: Callable[[], T]) -> T:
    """Calls ``use``, again where the file system says ESTALE."""
    for left in reversed(range(_STALE_TRIES)):
        try:
            return use()
        except OSError as error:
            if error.errno != errno.ESTALE or left == 0:
                raise
            time.sleep(_STALE_PAUSE * (_STALE_TRIES - left))
    raise AssertionError("the last try returns or raises")


class Store:
    """A store's root and id."""

    def __init__(self, root: str, store_id: str) -> None:
        self.root = root
        self.id = store_id

    @classmethod
    def from_environment(cls) -> Store:
        """The store that FRAMELOOM_DATA names.

        Raises StoreError, which says what is wrong with it.
        """
        root = os.environ.get(VARIABLE, "")
        if not root:
            raise StoreError(
                f"{VARIABLE} is not set; set it to the directory that the server has as --data"
            )
        if not os.path.isdir(root):
            raise StoreError(
                f"{VARIABLE}: '{root}' is not a directory; mount the server's --data there"
            )
        store = cls(root, "")

        def read() -> bytes:
            with store.open_file((), "store.json") as file:
                return file.read(_MARK_LIMIT)

        try:
            mark = json.loads(not_stale(read))
        except (OSError, Unsafe, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StoreError(
                f"{VARIABLE}: '{root}/store.json' cannot be read: {reason}; is '{root}' the "
                "directory that the server has as --data?"
            ) from error
        store_id = mark.get("id") if isinstance(mark, dict) else None
        if not isinstance(store_id, str) or not re.fullmatch("[0-9a-f]{32}", store_id):
            raise StoreError(f"{VARIABLE}: '{root}/store.json' has no id of 32 hexadecimal digits")
        if mark.get("version") != 1:
            raise StoreError(
                f"{VARIABLE}: '{root}/store.json' is of version {mark.get('version')!r}, this "
                "worker knows 1; update the package 'frameloom' to the server's"
            )
        return cls(root, store_id)

    @contextlib.contextmanager
    def directory(self, parts: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of a directory beneath the root.

        Raises FileNotFoundError where it is missing, Unsafe for what is no directory.
        """
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            for part in parts:
                try:
                    below = os.open(part, flags, dir_fd=fd)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        where = "/".join(parts)
                        raise Unsafe(f"'{where}': '{part}' is no directory") from error
                    raise
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def look_into(self, parts: tuple[str, ...]) -> None:
        """Opens a directory and closes it; raises as ``directory`` does."""

        def look() -> None:
            with self.directory(parts):
                pass

        not_stale(look)

    def exists(self, parts: tuple[str, ...], name: str) -> bool:
        """Whether something is there by this name."""

        def look() -> bool:
            try:
                with self.directory(parts) as fd:
                    os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

        return not_stale(look)

    def look_for(self, parts: tuple[str, ...], name: str) -> None:
        """Raises FileNotFoundError where a directory of others, read anew, does not list a name.

        To open it there would have the file system remember for a while that it is absent.
        """

        def look() -> None:
            with self.directory(parts) as fd:
                if not is_local(fd) and name not in os.listdir(fd):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

        not_stale(look)

    def open_file(self, parts: tuple[str, ...], name: str) -> BinaryIO:
        """Opens a regular file for reading."""
        return os.fdopen(not_stale(lambda: self._open_regular(parts, name)), "rb")

    def _open_regular(self, parts: tuple[str, ...], name: str) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self.directory(parts) as at:
            try:
                fd = os.open(name, flags, dir_fd=at)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Unsafe(f"'{'/'.join((*parts, name))}' is a symlink") from error
                raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Unsafe(f"'{'/'.join((*parts, name))}' is no regular file")
        return fd

    def create(self, parts: tuple[str, ...], name: str) -> bool:
        """Creates an empty file; False where it is there already."""

        def make() -> bool:
            with self.directory(parts) as at:
                try:
                    os.close(_new(name, at))
                except FileExistsError:
                    return False
            return True

        return not_stale(make)

    def replace(
        self, parts: tuple[str, ...], name: str, write: Callable[[int], None], temporary: str
    ) -> None:
        """Writes a file under a temporary name and renames it into place; no fsync."""

        def put() -> None:
            with self.directory(parts) as at:
                _written(temporary, at, write)
                try:
                    os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
                except OSError:
                    _gone(temporary, at)
                    raise

        not_stale(put)

    def publish_once(self, parts: tuple[str, ...], name: str, content: bytes) -> bool:
        """Publishes a whole file, unless one of that name is there: then False."""
        temporary = f"{name}.{os.getpid()}.{threading.get_native_id()}.tmp"

        def put() -> bool:
            with self.directory(parts) as at:
                _written(temporary, at, lambda fd: write_all(fd, content))
                try:
                    os.link(temporary, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
                except FileExistsError:
                    # Over NFS a link that was made may be answered twice, the second time so.
                    return os.stat(temporary, dir_fd=at).st_nlink == 2
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    return _renamed_once(temporary, name, at)
                finally:
                    _gone(temporary, at)
                return True

        return not_stale(put)


def write_all(fd: int, content: bytes | memoryview) -> None:
    """Writes all of it, however many calls that takes."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _new(name: str, at: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o660, dir_fd=at)


def _written(name: str, at: int, write: Callable[[int], None]) -> None:
    """Writes a new file; an earlier one that a stale handle left is removed first."""
    _gone(name, at)
    fd = _new(name, at)
    try:
        write(fd)
    except BaseException:
        _gone(name, at)
        raise
    finally:
        os.close(fd)


def _gone(name: str, at: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=at)


def _renamed_once(temporary: str, name: str, at: int) -> bool:
    """For file systems without hard links, where one process alone publishes a name."""
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
        return True
    return False
