"""The clients against the real server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import end
from proxy import Proxy
from serving import Serving, probed

import frameloom
from frameloom import AsyncClient, Client, Error, types
from frameloom.stream import ProgressLine, line
from frameloom.types import JobView

OPENAPI = Path(__file__).parent / "openapi.json"


@pytest.fixture(scope="module")
def server(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("serve")
    serving = Serving(binary, home, "--allow-path", str(home))
    yield serving
    end(serving.process)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty frames with sound, of about 1 MB."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=2"]
    command += ["-f", "lavfi", "-i", "sine=d=2", "-vf", "noise=alls=40:allf=t"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "18", str(path)]
    subprocess.run(command, check=True)
    assert path.stat().st_size > 500_000
    return path


@pytest.fixture
def client(server: Serving) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def test_a_video_goes_out_and_comes_back(client: Client, clip: Path, tmp_path: Path) -> None:
    told: list[JobView] = []
    job = client.submit(
        clip,
        ["blur:sigma=2", "edges"],
        codec="hevc",
        crf=30,
        preset="ultrafast",
        encoder_options={"bf": "0"},
        container="mkv",
        from_="0.4",
        to="1.2",
        no_audio=True,
        priority=7,
        segment=2,
    )
    view = job.wait(progress=told.append)
    assert view["state"] == "succeeded"
    assert view["filters"] == ["blur:sigma=2", "edges"]
    assert (view["container"], view["priority"], view["name"]) == ("mkv", 7, "clip.mp4")
    assert told[-1]["state"] == "succeeded"
    output = job.download(tmp_path)
    assert output == tmp_path / "clip.mkv"
    assert probed(output) == (20, "hevc")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]
    with pytest.raises(Error, match=r"clip\.mkv' exists; pass overwrite=True") as raised:
        job.download(tmp_path)
    assert raised.value.kind == "conflict"
    assert job.download(output, overwrite=True) == output
    assert next(client.jobs())["id"] == job.id
    assert job.id in [view["id"] for view in client.jobs(state="succeeded", sort="created")]


def test_a_source_on_the_server_is_not_sent(client: Client, server: Serving, clip: Path) -> None:
    there = server.log.parent / "there.mp4"
    shutil.copy(clip, there)
    view = client.submit(there, ["invert"], upload=False, to="0.2").wait()
    assert view["state"] == "succeeded"
    with pytest.raises(Error, match="etc/passwd") as raised:
        client.submit("/etc/passwd", upload=False)
    assert (raised.value.kind, raised.value.status) == ("forbidden", 403)


def test_events_are_told_in_order(client: Client, clip: Path) -> None:
    job = client.submit(clip, ["invert"], to="0.4")
    events = list(job.events())
    names = [event["event"] for event in events]
    assert names[-1] == "end"
    assert "planned" in names
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    assert events[-1]["data"]["state"] == "succeeded"
    assert list(job.events(after=events[-2]["id"])) == events[-1:]


def test_an_upload_goes_on_where_the_connection_dropped(
    server: Serving, clip: Path, tmp_path: Path
) -> None:
    with (
        Proxy(server.port, up=[100_000, 200_000, 150_000]) as proxy,
        Client(proxy.url) as client,
    ):
        job = client.submit(clip, ["invert"], to="0.4")
        assert proxy.cuts == 3
        assert job.wait()["state"] == "succeeded"
    stored = server.log.parent / "data" / "jobs" / job.id / "source"
    assert stored.read_bytes() == clip.read_bytes()


def test_a_download_and_events_go_on_where_the_connection_dropped(
    server: Serving, clip: Path, tmp_path: Path
) -> None:
    with Client(server.url) as client:
        job = client.submit(clip, ["invert"], lossless=True)
        with Proxy(server.port, down=[2000]) as proxy, Client(proxy.url) as cut:
            assert cut.job(job.id).wait()["state"] == "succeeded"
            assert proxy.cuts == 1
        whole = job.download(tmp_path / "whole.mp4").read_bytes()
        with Proxy(server.port, down=[300_000, 200_000]) as proxy, Client(proxy.url) as cut:
            assert cut.job(job.id).download(tmp_path / "cut.mp4").read_bytes() == whole
            assert proxy.cuts == 2


def test_a_job_is_cancelled(client: Client, clip: Path) -> None:
    job = client.submit(clip, ["nlmeans"] if _has(client, "nlmeans") else ["denoise"])
    job.cancel()
    with pytest.raises(Error) as raised:
        job.wait()
    assert raised.value.kind == "cancelled"
    assert job.status()["state"] == "cancelled"


def _has(client: Client, name: str) -> bool:
    return name in [f["name"] for f in client.filters()]


def test_errors_tell_kind_status_and_detail(client: Client, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(Error, match="unknown filter 'blurr', did you mean 'blur'") as raised:
        client.submit(clip, ["blurr"])
    assert (raised.value.kind, raised.value.status) == ("invalid", 400)
    with pytest.raises(Error, match="does not exist") as raised:
        client.job("../../x").status()
    assert (raised.value.kind, raised.value.status) == ("not_found", 404)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    with pytest.raises(Error) as raised:
        client.submit(bad, ["invert"]).wait()
    assert raised.value.kind in ("corrupt", "unsupported")
    with pytest.raises(Error, match="empty") as raised:
        client.submit(_empty(tmp_path), ["invert"])
    assert raised.value.status == 400
    with pytest.raises(FileNotFoundError):
        client.submit(tmp_path / "none.mp4", ["invert"])
    with pytest.raises(TypeError, match="expected a list of filters, got 'invert'"):
        client.submit(clip, "invert")
    with pytest.raises(TypeError, match="'crff' is no option; there are codec"):
        client.submit(clip, [], crff=3)  # type: ignore[call-arg]


def _empty(directory: Path) -> Path:
    path = directory / "empty.mp4"
    path.touch()
    return path


def test_no_server_and_no_address() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(Error) as raised:
        client.filters()
    assert (raised.value.kind, raised.value.status) == ("unavailable", None)
    with Client("127.0.0.1:8080") as client, pytest.raises(Error, match="address") as raised:
        client.filters()
    assert raised.value.kind == "invalid"


def test_token_and_certificate(binary: Path, tmp_path: Path) -> None:
    key, certificate, tokens = tmp_path / "key", tmp_path / "cert", tmp_path / "tokens"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += [
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    tokens.write_text("me:0123456789abcdef0123456789abcdef\n")
    tokens.chmod(0o600)
    given = ["--tls-cert", str(certificate), "--tls-key", str(key), "--tokens", str(tokens)]
    serving = Serving(binary, tmp_path, *given)
    token = "0123456789abcdef0123456789abcdef"
    try:
        with Client(serving.url, token, certificate) as client:
            assert list(client.jobs()) == []
        with Client(serving.url, "wrong", certificate) as client, pytest.raises(Error) as raised:
            next(client.jobs())
        assert (raised.value.kind, raised.value.status) == ("unauthorized", 401)
        with Client(serving.url, token) as client, pytest.raises(Error, match="cafile") as raised:
            client.filters()
        assert raised.value.kind == "invalid"
    finally:
        end(serving.process)
    with pytest.raises(Error, match="cafile '/none' cannot be read"):
        Client(serving.url, cafile="/none")


def test_the_asynchronous_client(server: Serving, clip: Path, tmp_path: Path) -> None:
    async def use() -> None:
        with Proxy(server.port, up=[100_000]) as proxy:
            async with AsyncClient(proxy.url) as client:
                told: list[JobView] = []
                job = await client.submit(clip, ["invert"], to="0.4")
                view = await job.wait(progress=told.append)
                assert view["state"] == "succeeded"
                assert told[-1]["state"] == "succeeded"
                assert proxy.cuts == 1
                assert probed(await job.download(tmp_path)) == (10, "h264")
                events = [event async for event in job.events()]
                assert events[-1]["event"] == "end"
                assert job.id in [view["id"] async for view in client.jobs()]
                assert {"blur", "edges"} <= {f["name"] for f in await client.filters()}
                assert (await client.workers())[0]["free_slots"] >= 0
                with pytest.raises(Error, match=job.id) as raised:
                    await job.cancel()
                assert raised.value.kind == "conflict"
                with pytest.raises(Error) as raised:
                    await client.submit(clip, ["blurr"])
                assert raised.value.kind == "invalid"

    asyncio.run(use())


def _bare(document: Any) -> Any:
    """A document without its words."""
    if isinstance(document, list):
        return [_bare(item) for item in document]
    if isinstance(document, dict):
        words = ("description", "summary", "version")
        return {k: _bare(v) for k, v in document.items() if k not in words or isinstance(v, dict)}
    return document


def test_the_copy_of_the_openapi_document_is_the_servers(client: Client) -> None:
    document = json.loads(client._http.get("/v1/openapi.json").content)
    if os.environ.get("FRAMELOOM_BLESS"):
        OPENAPI.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    assert _bare(json.loads(OPENAPI.read_text())) == _bare(document), (
        "the API has changed: run this test with FRAMELOOM_BLESS=1 and see to frameloom/types.py"
    )


def _fits(value: Mapping[str, Any], type_: Any) -> bool:
    """Whether an object has all fields that it must have, and no others."""
    needed, known = type_.__required_keys__, type_.__annotations__
    return set(needed) <= set(value) <= set(known)


def test_filters_workers_and_scale_are_as_typed(client: Client) -> None:
    for given in client.filters():
        assert _fits(given, types.Filter)
        for param in given["params"]:
            assert _fits(param, types.FilterParam), param
    (worker,) = client.workers()
    assert _fits(client.scale(), types.ScaleView)
    assert _fits(worker, types.WorkerView)


def view(**changes: Any) -> JobView:
    """A job that runs."""
    progress = {"frames": 30, "total": 100, "percent": 30.0, "fps": 12.5, "eta_seconds": 5.6}
    return {"id": "0123456789", "state": "running", "progress": progress, **changes}  # type: ignore[typeddict-item]


def test_progress_is_a_line() -> None:
    assert line(view()) == "job 01234567 running 30 % 30/100 frames 12.5 fps 6 s left"
    out = io.StringIO()
    tell = ProgressLine(out)
    for _ in range(3):
        tell(view())
    tell(view(state="queued", waiting="upload"))
    tell.close()
    assert out.getvalue().splitlines() == [
        line(view()),
        "job 01234567 queued (waiting: upload) 30 % 30/100 frames 12.5 fps 6 s left",
    ]


def test_the_package_names_what_it_has() -> None:
    assert all(hasattr(frameloom, name) for name in frameloom.__all__)
    assert not hasattr(frameloom, "nothing")
