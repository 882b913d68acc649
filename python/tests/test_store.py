"""The store's rules, without a worker: stale handles, first results, what a task is made with."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from server_role import new_id

from frameloom import Error
from frameloom.celery import frame_task
from frameloom.celery.attempt import Attempt, Gone
from frameloom.celery.message import Message
from frameloom.celery.store import Store, Unsafe, write_all


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    (tmp_path / "store.json").write_text(json.dumps({"version": 1, "id": new_id()}))
    (tmp_path / "dir").mkdir()
    monkeypatch.setenv("FRAMELOOM_DATA", str(tmp_path))
    return Store.from_environment()


def fail_first(monkeypatch: pytest.MonkeyPatch, name: str, code: int, times: int) -> list[int]:
    """Has a function of os fail so many times."""
    real, failures = getattr(os, name), [0]

    def function(*args: Any, **kwargs: Any) -> Any:
        if failures[0] < times:
            failures[0] += 1
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, function)
    return failures


@pytest.mark.parametrize("name", ["open", "rename", "write"])
def test_a_stale_handle_is_tried_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    failures = fail_first(monkeypatch, name, errno.ESTALE, 2)
    store.replace(("dir",), "file", lambda fd: write_all(fd, b"content"), "file.tmp")
    assert failures == [2]
    assert (tmp_path / "dir" / "file").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "dir").iterdir()] == ["file"]


def test_a_handle_that_stays_stale_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_first(monkeypatch, "open", errno.ESTALE, 100)
    with pytest.raises(OSError, match="Stale file handle"):
        store.create(("dir",), "file")


def test_a_full_disk_leaves_no_temporary_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_first(monkeypatch, "write", errno.ENOSPC, 1)
    with pytest.raises(OSError, match="No space left"):
        store.publish_once(("dir",), "file", b"content")
    assert not list((tmp_path / "dir").iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_many_results_counts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        fail_first(monkeypatch, "link", errno.EPERM, 100)
    won: list[int] = []
    ready = threading.Barrier(1 if not links else 8)

    def publish(number: int) -> None:
        ready.wait()
        if store.publish_once(("dir",), "result", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
        if not links:
            thread.join()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "dir" / "result").read_text() == str(won[0])
    assert [path.name for path in (tmp_path / "dir").iterdir()] == ["result"]


def test_a_link_that_was_made_though_it_was_refused_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def twice(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        real(*args, **kwargs)

    monkeypatch.setattr(os, "link", twice)
    assert store.publish_once(("dir",), "result", b"content")


def test_a_directory_that_is_a_symlink_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("dir")
    with pytest.raises(Unsafe, match="'link': 'link' is no directory"):
        store.look_into(("link",))
    with pytest.raises(Unsafe, match=r"'store\.json/x': 'store\.json' is no directory"):
        store.look_into(("store.json", "x"))


def test_of_many_processes_one_takes_an_attempt(store: Store, tmp_path: Path) -> None:
    job, attempt = new_id(), new_id()
    for name in ("claims", "beats", "results"):
        (tmp_path / "frames" / job / name).mkdir(parents=True)
    message = Message(store.id, job, attempt, {}, None, ())
    taken: list[bool] = []

    def take() -> None:
        try:
            Attempt(store, message, 1).claim()
        except Gone:
            taken.append(False)
        else:
            taken.append(True)

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 15 + [True]


def test_a_task_acknowledges_late_and_keeps_no_result() -> None:
    app = Celery("test", broker="memory://")

    @frame_task(app, name="a.b", rate_limit="9/s")
    def same(frame: Any, *, pts: Any, index: Any, params: Any) -> Any:
        """Docs."""
        return frame

    assert (same.name, same.rate_limit, same.acks_late) == ("a.b", "9/s", True)
    assert (same.ignore_result, same.max_retries, same.__doc__) == (True, 0, "Docs.")
    assert same.function("frame", pts=0, index=0, params={}) == "frame"
    with pytest.raises(ValueError, match="frames: expected at least 1, got 0"):
        frame_task(app, name="c", frames=0)
    with pytest.raises(ValueError, match="timeout: expected more than 0 seconds, got 0"):
        frame_task(app, name="c", timeout=0)


def test_the_package_alone_loads_neither_celery_nor_httpx() -> None:
    code = "import sys, frameloom; print({'celery', 'httpx', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_an_error_goes_through_pickle() -> None:
    error = pickle.loads(pickle.dumps(Error("invalid", "no", 400)))
    assert repr(error) == "Error(kind='invalid', status=400, detail='no')"
    assert str(error) == "no"
