"""Frameloom beside its peers: the same clips, encoder, preset and CRF, in turn.

Prints, and writes to docs/benchmarks.md between two marks, frames a second (median and spread of the rounds),
the ratio to each peer in the same round, CPU seconds and peak memory of the largest process.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20"]
GRAPHS = {"none": [], "invert": ["-vf", "negate"], "blur": ["-vf", "gblur=sigma=3"], "edges": ["-vf", "edgedetect"]}
FILTERS = {"none": [], "invert": ["-f", "invert"], "blur": ["-f", "blur:sigma=3"], "edges": ["-f", "edges"]}


def shell(*args, **kwargs):
    return subprocess.run(args, check=True, capture_output=True, text=True, **kwargs).stdout


def frames_of(path):
    text = shell("ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets", "-show_entries",
                 "stream=nb_read_packets", "-of", "csv=p=0", path)
    return int(text.strip().strip(","))


def duration_of(path):
    return float(shell("ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path))


def measure(commands, env=None):
    """Runs commands side by side; wall seconds, CPU seconds, peak memory of the largest process in MiB."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env) for c in commands]
    for process, command in zip(running, commands):
        words = process.communicate()[1]
        if process.returncode:
            sys.exit(f"{' '.join(command)}: {words.decode()}")
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


class Celery:
    """Redis and a Celery worker with two processes, for as long as the block lasts."""

    def __init__(self, venv, folder):
        self.venv, self.folder = venv, folder

    def __enter__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.redis = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                                       "--dir", self.folder], stdout=subprocess.DEVNULL)
        self.env = dict(os.environ, BROKER=f"redis://127.0.0.1:{port}/0", PYTHONPATH=HERE)
        celery = os.path.abspath(f"{self.venv}/bin/celery")
        self.worker = subprocess.Popen([celery, "-A", "celery_peer", "worker", "-c", str(os.cpu_count()), "-l", "warning"],
                                       cwd=self.folder, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            answer = subprocess.run([celery, "-A", "celery_peer", "inspect", "ping", "-t", "1"], cwd=self.folder,
                                    env=self.env, capture_output=True)
            if answer.returncode == 0:
                return self
        sys.exit("the Celery worker does not answer")

    def __exit__(self, *_):
        self.worker.send_signal(signal.SIGTERM)
        self.worker.wait()
        self.redis.terminate()
        self.redis.wait()


def make_clips(clips, folder, seconds):
    """One generated and one real clip, 1080p, with keyframes where an encoder's defaults put them."""
    common = ["-t", str(seconds), "-an", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "medium", "-crf", "20"]
    made = {}
    for name, source in {
        "generated": ["-f", "lavfi", "-i", "testsrc2=s=1920x1080:r=25,noise=alls=6:allf=t"],
        "bunny": ["-stream_loop", "-1", "-i", f"{clips}/bigbuckbunny.mp4", "-vf", "scale=1920:1080"],
    }.items():
        made[name] = f"{folder}/{name}-{seconds}.mp4"
        if not os.path.exists(made[name]):
            shell("ffmpeg", "-v", "error", "-y", *source, *common, made[name])
    return made


def halves(source, kind, folder):
    """Two independent one-thread ffmpeg processes on the halves: the ceiling for two slots."""
    middle = duration_of(source) / 2
    head = ["ffmpeg", "-v", "error", "-y", "-nostdin", "-threads", "1"]
    tail = [*GRAPHS[kind], *X264, "-threads", "1", "-filter_threads", "1"]
    return [
        [*head, "-t", str(middle), "-i", source, *tail, f"{folder}/a.mp4"],
        [*head, "-ss", str(middle), "-i", source, *tail, f"{folder}/b.mp4"],
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--clips", required=True)
    parser.add_argument("--venv", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--kinds", default="none,invert,blur,edges")
    parser.add_argument("--clip", default="", help="this clip only: generated or bunny")
    parser.add_argument("--only", default="", help="run these peers only, by name, with semicolons between")
    args = parser.parse_args()
    folder = os.path.abspath(".cache/bench")
    os.makedirs(folder, exist_ok=True)
    clips = make_clips(args.clips, folder, args.seconds)
    only = [name for name in args.only.split(";") if name]
    python = os.path.abspath(f"{args.venv}/bin/python")
    rows = []
    with Celery(args.venv, folder) as celery:
        for clip, source in clips.items():
            if args.clip not in ("", clip):
                continue
            frames = frames_of(source)
            for kind in args.kinds.split(","):
                ours = [args.bin, "run", source, "--overwrite", "--quiet", "-o", f"{folder}/o.mp4",
                        "--metrics", f"{folder}/m.json", *FILTERS[kind]]
                peers = {
                    "frameloom": ([ours], None),
                    "frameloom --slots 1": ([[*ours, "--slots", "1"]], None),
                    "ffmpeg": ([["ffmpeg", "-v", "error", "-y", "-nostdin", "-i", source, *GRAPHS[kind], *X264,
                                 f"{folder}/f.mp4"]], None),
                    "2 × ffmpeg -threads 1 on halves": (halves(source, kind, folder), None),
                }
                for encoder in ("mp4v", "x264"):
                    peers[f"OpenCV in Python, {encoder}"] = (
                        [[python, f"{HERE}/opencv_peer.py", source, f"{folder}/p.mp4", kind, encoder]], None)
                    if kind in ("blur", "edges"):
                        peers[f"Celery, a task a frame, {encoder}"] = (
                            [[python, f"{HERE}/celery_peer.py", source, f"{folder}/c.mp4", kind, encoder]], celery.env)
                peers = {name: peer for name, peer in peers.items() if not only or name in only}
                results = {name: [] for name in peers}
                memory = 0
                for _ in range(args.rounds):
                    for name, (commands, env) in peers.items():
                        wall, cpu = measure(commands, env)
                        results[name].append((frames / wall, cpu))
                        if name == "frameloom":
                            metrics = json.load(open(f"{folder}/m.json"))
                            memory = max(memory, *(slot["peak_rss"] for slot in metrics["slots"]))
                for name, rounds in results.items():
                    fps = [r[0] for r in rounds]
                    ratios = [o[0] / r[0] for o, r in zip(results["frameloom"], rounds)]
                    rows.append((clip, kind, name, statistics.median(fps), max(fps) - min(fps),
                                 statistics.median(ratios), statistics.median(r[1] for r in rounds),
                                 memory / 2**20 if name == "frameloom" else None))
                    print(f"{clip:10} {kind:7} {name:32} {rows[-1][3]:7.1f} fps ± {rows[-1][4] / 2:.1f}"
                          f"   frameloom is {rows[-1][5]:.2f} ×   {rows[-1][6]:.1f} CPU s", flush=True)
    write(args, rows)


def write(args, rows):
    cpu = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    text = [
        f"Clips of {args.seconds} s at 1920×1080, {args.rounds} rounds, all in turn within a round; x264 veryfast CRF 20, but for",
        f"the `mp4v` rows, which is what `cv2.VideoWriter` makes and cheaper to encode. {os.cpu_count()} cores ({cpu.group(1) if cpu else platform.machine()}),",
        f"{shell('ffmpeg', '-version').splitlines()[0].split(' Copyright')[0]}, {shell(args.bin, '--version').strip()}.",
        "",
        "| clip | filter | | fps, median | spread | frameloom is | CPU s | memory a slot |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for clip, kind, name, fps, spread, ratio, seconds, memory in rows:
        shown = f"{memory:.0f} MiB" if memory else ""
        text.append(f"| {clip} | {kind} | {name} | {fps:.1f} | {spread:.1f} | {ratio:.2f} × | {seconds:.1f} | {shown} |")
    path = "docs/benchmarks.md"
    page = open(path).read()
    begin, end = "<!-- measured -->\n", "<!-- end -->"
    head, rest = page.split(begin)
    tail = rest.split(end)[1]
    open(path, "w").write(head + begin + "\n".join(text) + "\n" + end + tail)


if __name__ == "__main__":
    main()
