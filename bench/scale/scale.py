"""How Frameloom grows: with nodes, with slots, and with a video's length. Writes docs/scaling.md's tables and plots.

scale.py FRAMELOOM NODES_EXAMPLE CLIPS [--parts nodes,slots,length]

nodes:  containers with an eighth of a core each, one slot each, behind `deploy/compose.yaml`; frames a second of one job.
slots:  nodes that only sleep (turns.py), 10 to 10,000 slots: what the server and Redis take.
length: a video of 1 minute to 100 hours: what a plan takes, and the server once it is there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.dirname(HERE))

import page  # noqa: E402
import turns  # noqa: E402
from plot import plot  # noqa: E402

PAGE = os.path.join(ROOT, "docs", "scaling.md")
PICTURES = os.path.join(ROOT, "docs", "pictures")
PORT = "18453"


def run(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout


def compose_command():
    v2 = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    return ["docker", "compose"] if v2 else ["docker-compose"]


class Containers:
    """A cluster of containers of its own, with as many nodes as asked for."""

    def __init__(self, binary):
        self.binary, self.place = binary, tempfile.mkdtemp()
        self.secrets = os.path.join(self.place, "secrets")
        self.env = {**os.environ, "FRAMELOOM_SECRETS": self.secrets, "FRAMELOOM_PORT": PORT, "WORKER_SLOTS": "1"}
        files = [os.path.join(ROOT, "deploy", "compose.yaml"), os.path.join(HERE, "limits.yaml")]
        self.compose = [*compose_command(), "-p", f"frameloom-scale-{os.getpid()}", "-f", files[0], "-f", files[1]]
        self.client = ["--server", f"https://localhost:{PORT}", "--cacert", f"{self.secrets}/ca.pem",
                       "--token", f"{self.secrets}/token"]

    def __enter__(self):
        run(os.path.join(ROOT, "deploy", "secrets.sh"), self.secrets)
        return self

    def __exit__(self, *_):
        run(*self.compose, "down", "--volumes", "--timeout", "1", env=self.env)
        shutil.rmtree(self.place)

    def ask(self, path):
        with open(f"{self.secrets}/token") as file:
            header = f"Authorization: Bearer {file.read()}"
        url = f"https://localhost:{PORT}{path}"
        return json.loads(run("curl", "-sS", "--fail", "--cacert", f"{self.secrets}/ca.pem", "-H", header, url))

    def nodes(self):
        try:
            return sum(node["lives"] and bool(node["slots"]) for node in self.ask("/v1/workers"))
        except subprocess.CalledProcessError:
            return 0

    def scale(self, count):
        run(*self.compose, "up", "-d", "--scale", f"worker={count}", env=self.env)
        begun = time.monotonic()
        while self.nodes() != count:
            if time.monotonic() - begun > 180:
                raise SystemExit(f"{count} nodes are not there after three minutes, but {self.nodes()}")
            time.sleep(0.5)

    def job(self, clip, *arguments):
        """Frames a second of a job, from its submission to its end."""
        out = os.path.join(self.place, "out.mp4")
        metrics = os.path.join(self.place, "metrics.json")
        begun = time.monotonic()
        run(self.binary, "submit", clip, "-o", out, "--overwrite", "--quiet", "--metrics", metrics, *self.client, *arguments)
        wall = time.monotonic() - begun
        with open(metrics) as file:
            return json.load(file)["frames"]["out"] / wall


def by_nodes(args, home):
    # The clip's own keyframes are 20 s apart: of 16 segments eight nodes would get two each, and wait for the last.
    clip = os.path.join(home, "long.mp4")
    run("ffmpeg", "-v", "error", "-stream_loop", "3", "-i", f"{args.clips}/vtest.avi", "-c:v", "libx264", "-preset", "veryfast",
        "-crf", "18", "-g", "20", "-sc_threshold", "0", clip)
    rows = []
    with Containers(args.binary) as containers:
        for count in (1, 2, 4, 8):
            containers.scale(count)
            # Libraries and models are read once a slot.
            containers.job(f"{args.clips}/vtest.avi", "-f", "blur", "--to", "8", "--segment", "1")
            fps = containers.job(clip, "-f", "blur", "--segment", "2")
            rows.append((count, fps, fps / rows[0][1] / count if rows else 1.0))
            print(f"{count} nodes: {fps:.1f} fps, efficiency {rows[-1][2]:.2f}", flush=True)
    ideal = [(count, rows[0][1] * count) for count, *_ in rows]
    plot(f"{PICTURES}/scaling-nodes.svg", "Frames a second by nodes of an eighth of a core", "nodes", "frames a second",
         [("ideal", ideal), ("measured", [(count, fps) for count, fps, _ in rows])])
    return ["| nodes | frames a second | efficiency |", "|---|---|---|",
            *(f"| {count} | {fps:.1f} | {efficiency:.2f} |" for count, fps, efficiency in rows)]


def by_slots(args, home):
    clip = os.path.join(home, "short.avi")
    source = "testsrc=s=32x32:r=25:d=4000"
    run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "mjpeg", "-q:v", "31", clip)
    rows = []
    for nodes, slots, sleep in ((2, 5, 40), (20, 5, 400), (200, 5, 4000), (200, 50, 40_000)):
        row = turns.measure(args.binary, args.nodes, home, clip, nodes, slots, sleep, warm=min(2000, nodes * slots))
        rows.append(row)
        print("{} slots: {} ms, {:.0f} turns/s, {:.2f} cores, {:.0f} MiB, Redis {:.2f}".format(*row), flush=True)
    plot(f"{PICTURES}/scaling-slots.svg", "The server by slots", "slots", "% of a core, MiB",
         [("processor", [(row[0], max(row[3] * 100, 0.1)) for row in rows]), ("memory", [(row[0], row[4]) for row in rows])],
         logarithmic=True)
    return ["| slots | a task takes | tasks a second | server, cores | server, MiB | Redis, cores |", "|---|---|---|---|---|---|",
            *("| {:,} | {} ms | {:.0f} | {:.2f} | {:.0f} | {:.2f} |".format(*row) for row in rows)]


def peak(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def by_length(args, home):
    minute = os.path.join(home, "minute.mp4")
    run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=s=32x32:r=25:d=60", "-pix_fmt", "yuv420p", "-c:v", "libx264",
        "-g", "50", minute)
    rows = []
    for minutes, name in ((1, "1 min"), (60, "1 h"), (600, "10 h"), (6000, "100 h")):
        clip = os.path.join(home, "long.mp4")
        run("ffmpeg", "-v", "error", "-y", "-stream_loop", str(minutes - 1), "-i", minute, "-c", "copy", clip)
        data = os.path.join(home, "data")
        shutil.rmtree(data, ignore_errors=True)
        serve = subprocess.Popen([args.binary, "serve", "--data", data, "--min-free", "1M", "--allow-path", home,
                                  "--listen", "127.0.0.1:0", "--slots", "1"],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        url = serve.stdout.readline().split()[-1]
        begun = time.monotonic()
        job = run(args.binary, "submit", clip, "--path", "--server", url, "-f", "invert", "--segment", "8", "--detach").split()[0]
        while not turns.ask(f"{url}/v1/jobs/{job}")["progress"]["total"]:
            time.sleep(0.01)
        planned = time.monotonic() - begun
        begun = time.monotonic()
        segments = len(turns.ask(f"{url}/v1/jobs/{job}")["segments"])
        asked = time.monotonic() - begun
        results = os.scandir(os.path.join(data, "jobs", job, "results"))
        size = max(entry.stat().st_size for entry in results if entry.name.startswith("plan."))
        rows.append((name, minutes, segments, planned, size / 2**20, asked * 1000, peak(serve.pid)))
        print("{}: {} minutes, {} segments, planned in {:.2f} s, {:.1f} MiB of plan, asked in {:.0f} ms, {:.0f} MiB".format(*rows[-1]),
              flush=True)
        serve.kill()
        serve.wait()
    plot(f"{PICTURES}/scaling-length.svg", "A plan by the video's length", "minutes", "seconds, MiB",
         [("seconds to plan", [(row[1], row[3]) for row in rows]), ("MiB of the server", [(row[1], row[6]) for row in rows])],
         logarithmic=True)
    return ["| video | segments | planned after | plan, MiB | state of the job | server at most |", "|---|---|---|---|---|---|",
            *("| {} | {:,} | {:.2f} s | {:.1f} | {:.0f} ms | {:.0f} MiB |".format(r[0], *r[2:]) for r in rows)]


PARTS = {"nodes": by_nodes, "slots": by_slots, "length": by_length}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("nodes", type=os.path.abspath)
    parser.add_argument("clips", type=os.path.abspath)
    parser.add_argument("--parts", default=",".join(PARTS))
    args = parser.parse_args()
    os.makedirs(PICTURES, exist_ok=True)
    for part in args.parts.split(","):
        # What only sleeps is measured with a store in memory.
        home = tempfile.mkdtemp(dir="/dev/shm" if part == "slots" else None)
        try:
            table = PARTS[part](args, home)
        finally:
            shutil.rmtree(home)
        picture = f"![By {part}](pictures/scaling-{part}.svg)"
        page.write(part, [picture, "", f"Measured on {page.machine()}.", "", *table], PAGE)


if __name__ == "__main__":
    main()
