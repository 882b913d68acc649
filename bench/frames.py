"""Frames and segments as tasks over Redis, beside the Celery peer and the broker in memory, in turn.

frames.py --bin FRAMELOOM --clips CLIPS --venv VENV [--rounds 3] [--seconds 12] [--kinds blur]

A server without slots of its own and one worker node with a slot a core, their store in memory, as the peer's
frames are; and another server that does all by itself. The same clip, x264 veryfast CRF 20; the job is submitted, done and
fetched. Prints, and writes to docs/benchmarks.md between two marks, frames a second, CPU seconds of all processes that have
to do with it together (which other work on the machine changes less), and what Redis costs beside memory.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time

import page
from bench import FILTERS, HERE, Celery, frames_of, make_clips, measure, shell


PEERS = ["Celery, a task a frame, mp4v", "Celery, a task a frame, x264"]
OVER_REDIS, IN_MEMORY = "frameloom, segments over Redis", "frameloom, segments in memory"


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
    """A server and a worker node, over a Redis that runs already; without one, a server that does all by itself."""

    def __init__(self, binary, broker=None):
        self.binary, self.broker = binary, broker

    def __enter__(self):
        self.home = tempfile.mkdtemp(dir="/dev/shm")
        data = os.path.join(self.home, "data")
        quiet = {"stderr": subprocess.DEVNULL, "text": True}
        over = ["--broker", self.broker, "--data", data] if self.broker else ["--data", data]
        apart = ["--no-local-slots"] if self.broker else []
        arguments = ["serve", *over, *apart, "--min-free", "1M", "--listen", "127.0.0.1:0"]
        self.processes = [subprocess.Popen([self.binary, *arguments], stdout=subprocess.PIPE, **quiet)]
        self.url = self.processes[0].stdout.readline().split()[-1]
        if self.broker:
            node = [self.binary, "worker", *over]
            self.processes.append(subprocess.Popen(node, stdout=subprocess.DEVNULL, **quiet))
        time.sleep(3)
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()
        shutil.rmtree(self.home)

    def pids(self):
        return {process.pid for process in self.processes}

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
    rows, costs = [], []
    # The peer has database 0, Frameloom another one.
    with Celery(args.venv, folder) as celery:
        broker = celery.env["BROKER"].rsplit("/", 1)[0] + "/1"
        with Cluster(args.bin, broker) as cluster, Cluster(args.bin) as alone:
            redis = {celery.redis.pid}
            theirs, ours = redis | {celery.worker.pid}, redis | cluster.pids()
            for kind in args.kinds.split(","):
                peer = [python, f"{HERE}/celery_peer.py", source, f"{folder}/c.mp4", kind]
                turns = {
                    PEERS[0]: ([*peer, "mp4v"], celery.env, theirs),
                    PEERS[1]: ([*peer, "x264"], celery.env, theirs),
                    "frameloom, frames over Redis": (cluster.submit(source, kind, "frame"), None, ours),
                    OVER_REDIS: (cluster.submit(source, kind, "segment"), None, ours),
                    IN_MEMORY: (alone.submit(source, kind, "segment"), None, alone.pids()),
                }
                rates, seconds = {name: [] for name in turns}, {name: [] for name in turns}
                for _ in range(args.rounds):
                    for name, (command, env, roots) in turns.items():
                        before = cpu_of(roots)
                        wall, cpu = measure([command], env)
                        rates[name].append(frames / wall)
                        seconds[name].append(cpu + cpu_of(roots) - before)
                        print(f"{kind:7} {name:32} {frames / wall:7.1f} fps {seconds[name][-1]:7.1f} CPU s", flush=True)
                for name, rounds in rates.items():
                    ratios = [
                        statistics.median(ours / theirs for ours, theirs in zip(rounds, rates[other])) for other in PEERS
                    ]
                    shown = ", ".join(f"{rate:.1f}" for rate in rounds)
                    rows.append(f"| {kind} | {name} | {statistics.median(rounds):.1f} | {shown} | "
                                f"{ratios[0]:.2f} × | {ratios[1]:.2f} × | {statistics.median(seconds[name]):.1f} |")
                cost = [100 * (over / within - 1) for over, within in zip(seconds[OVER_REDIS], seconds[IN_MEMORY])]
                costs.append(f"`{kind}`: {statistics.median(cost):+.1f} % ({', '.join(f'{c:+.1f}' for c in cost)})")
    page.write("redis", [
        f"`make bench` (its second part, `make bench-frames`): {frames} frames of `bunny` at 1080p, {args.rounds} rounds in turn, stores in",
        f"memory; {page.machine()}, {shell(args.bin, '--version').strip()}.",
        "",
        "| filter | | fps, median | of the rounds | to the Celery peer with mp4v | with x264 | CPU s |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "CPU time of segments over Redis (server, node, Redis and client) beside the same in one process with the broker in memory, "
        + "median (rounds): " + "; ".join(costs) + ".",
    ])
    print("\n".join([*rows, *costs]))


if __name__ == "__main__":
    main()
