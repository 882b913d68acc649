"""Frames and segments as tasks over Redis, beside the Celery peer, in turn.

frames.py --bin FRAMELOOM --clips CLIPS --venv VENV [--rounds 3] [--seconds 12] [--kinds blur]

A server without slots of its own and one worker node with a slot a core, their store in memory, as the peer's
frames are. The same clip, x264 veryfast CRF 20; the job is submitted, done and fetched. Prints a table: frames a
second, and CPU seconds of all processes together (which other work on the machine changes less).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time

from bench import FILTERS, HERE, Celery, frames_of, make_clips, measure


def cpu_of(roots):
    """CPU seconds of processes and all that they have started, so far."""
    used, parents = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        # Its own, and of those that it has waited for.
        used[int(pid)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        parents[int(pid)] = int(fields[1])

    def belongs(pid):
        while pid not in roots and pid in parents:
            pid = parents[pid]
        return pid in roots

    return sum(seconds for pid, seconds in used.items() if belongs(pid))


class Cluster:
    """A server and a worker node, over a Redis that runs already."""

    def __init__(self, binary, broker):
        self.binary, self.broker = binary, broker

    def __enter__(self):
        self.home = tempfile.mkdtemp(dir="/dev/shm")
        data = os.path.join(self.home, "data")
        quiet = {"stderr": subprocess.DEVNULL, "text": True}
        arguments = ["serve", "--broker", self.broker, "--data", data, "--no-local-slots", "--min-free", "1M"]
        self.server = subprocess.Popen(
            [self.binary, *arguments, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, **quiet)
        self.url = self.server.stdout.readline().split()[-1]
        self.node = subprocess.Popen(
            [self.binary, "worker", "--broker", self.broker, "--data", data], stdout=subprocess.DEVNULL, **quiet)
        time.sleep(3)
        return self

    def __exit__(self, *_):
        for process in (self.node, self.server):
            process.terminate()
            process.wait()
        shutil.rmtree(self.home)

    def submit(self, source, kind, granularity):
        return [self.binary, "submit", source, "--server", self.url, "-o", f"{self.home}/o.mp4", "--overwrite",
                "--quiet", "--granularity", granularity, *FILTERS[kind]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--clips", required=True)
    parser.add_argument("--venv", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=12)
    parser.add_argument("--kinds", default="blur")
    args = parser.parse_args()
    folder = os.path.abspath(".cache/bench")
    os.makedirs(folder, exist_ok=True)
    source = make_clips(args.clips, folder, args.seconds)["bunny"]
    frames = frames_of(source)
    python = os.path.abspath(f"{args.venv}/bin/python")
    print("| filter | | fps, median | of the rounds | to the Celery peer with mp4v | with x264 | CPU s |")
    print("|---|---|---|---|---|---|---|")
    # The peer has database 0, Frameloom another one.
    with Celery(args.venv, folder) as celery:
        broker = celery.env["BROKER"].rsplit("/", 1)[0] + "/1"
        with Cluster(args.bin, broker) as cluster:
            for kind in args.kinds.split(","):
                peer = [python, f"{HERE}/celery_peer.py", source, f"{folder}/c.mp4", kind]
                turns = {
                    "Celery, a task a frame, mp4v": ([*peer, "mp4v"], celery.env),
                    "Celery, a task a frame, x264": ([*peer, "x264"], celery.env),
                    "frameloom, frames": (cluster.submit(source, kind, "frame"), None),
                    "frameloom, segments": (cluster.submit(source, kind, "segment"), None),
                }
                roots = {p.pid for p in (celery.redis, celery.worker, cluster.server, cluster.node)}
                rates, seconds = {name: [] for name in turns}, {name: [] for name in turns}
                for _ in range(args.rounds):
                    for name, (command, env) in turns.items():
                        before = cpu_of(roots)
                        wall, cpu = measure([command], env)
                        rates[name].append(frames / wall)
                        seconds[name].append(cpu + cpu_of(roots) - before)
                for name, rounds in rates.items():
                    ratios = [
                        statistics.median(ours / theirs for ours, theirs in zip(rounds, rates[other]))
                        for other in list(turns)[:2]
                    ]
                    shown = ", ".join(f"{rate:.1f}" for rate in rounds)
                    print(f"| {kind} | {name} | {statistics.median(rounds):.1f} | {shown} | "
                          f"{ratios[0]:.2f} × | {ratios[1]:.2f} × | {statistics.median(seconds[name]):.1f} |", flush=True)


if __name__ == "__main__":
    main()
