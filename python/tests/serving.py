"""A server that a test has started, and what came of its work."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from conftest import wait_for


def probed(video: Path) -> tuple[int, str]:
    """Number of frames and codec of a video, by FFmpeg."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0"]
    command += ["-show_entries", "stream=nb_read_frames,codec_name", "-of", "json", str(video)]
    stream = json.loads(subprocess.check_output(command))["streams"][0]
    return int(stream["nb_read_frames"]), stream["codec_name"]


class Serving:
    """A server that runs."""

    def __init__(self, binary: Path, home: Path, *arguments: str) -> None:
        self.log = home / "log"
        command = [str(binary), "serve", "--listen", "127.0.0.1:0", "--data", str(home / "data")]
        command += ["--min-free", "1M", *arguments]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        found = wait_for(self._address, f"the server, see {self.log}")
        self.url, self.port = found.group(1), int(found.group(2))

    def _address(self) -> re.Match[str] | None:
        assert self.process.poll() is None, self.log.read_text()
        return re.search(r"listening on (https?://[\d.]+:(\d+))", self.log.read_text())
