"""Task turns a second through server, Redis and store, with slots that only sleep.

turns.py FRAMELOOM NODES_EXAMPLE [STORE_DIR]   prints a table for 10, 100 and 1,000 slots.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TICK = os.sysconf("SC_CLK_TCK")
SECONDS = 20


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss(pid):
    return int(open(f"/proc/{pid}/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def ask(url):
    return json.load(urllib.request.urlopen(url))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(binary, nodes_binary, home, clip, nodes, slots, sleep, warm=2000):
    """One row of the table, once `warm` frames are done."""
    data = os.path.join(home, "data")
    shutil.rmtree(data, ignore_errors=True)
    port = free_port()
    broker = f"redis://127.0.0.1:{port}/0"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    redis = subprocess.Popen(["redis-server", "--port", str(port), "--save", ""], **quiet)
    time.sleep(0.5)
    arguments = ["serve", "--broker", broker, "--data", data, "--no-local-slots", "--min-free", "1M"]
    serve = subprocess.Popen(
        [binary, *arguments, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    url = serve.stdout.readline().split()[-1]
    time.sleep(1)
    fakes = subprocess.Popen([nodes_binary, broker, data, str(nodes), str(slots), str(sleep)])
    submit = [binary, "submit", clip, "--server", url, "-f", "invert", "--segment", "0.04", "--detach"]
    job = subprocess.run(submit, check=True, capture_output=True, text=True).stdout.split()[0]

    def frames():
        return ask(f"{url}/v1/jobs/{job}")["progress"]["frames"]

    while frames() < warm:
        time.sleep(0.2)
    begun, before, used, broker_used = time.time(), frames(), cpu(serve.pid), cpu(redis.pid)
    most = 0
    while time.time() - begun < SECONDS:
        most = max(most, rss(serve.pid))
        time.sleep(0.5)
    took = time.time() - begun
    turns = (frames() - before) / took
    row = (nodes * slots, sleep, turns, (cpu(serve.pid) - used) / took, most, (cpu(redis.pid) - broker_used) / took)
    for process in (fakes, serve, redis):
        process.send_signal(signal.SIGKILL)
        process.wait()
    return row


def main(binary, nodes_binary, home=None):
    home = tempfile.mkdtemp(dir=home or "/dev/shm")
    clip = os.path.join(home, "clip.avi")
    source = "testsrc=s=32x32:r=25:d=4000"
    encode = ["-c:v", "mjpeg", "-q:v", "31", clip]
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *encode], check=True)
    print("| slots | a task sleeps | turns a second | server, cores | server, MiB | Redis, cores |")
    print("|---|---|---|---|---|---|")
    try:
        for nodes, slots, sleep in ((2, 5, 4), (20, 5, 40), (200, 5, 400)):
            row = measure(binary, nodes_binary, home, clip, nodes, slots, sleep)
            print("| {} | {} ms | {:.0f} | {:.2f} | {:.0f} | {:.2f} |".format(*row), flush=True)
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main(*sys.argv[1:])
