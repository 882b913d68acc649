"""Finding and hiding faces beside deface, and motion beside OpenCV's MOG2 loop in Python: medians of rounds in turn.

    python bench/detect/bench.py --bin FRAMELOOM --deface DEFACE --clips DIR [--rounds 3] [--page]

Faces: the same clip, the same detector's input size, output of the same size, x264 veryfast CRF 20 on both sides. Motion: 640
wide, grey, once without writing and once with the same x264.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import page

# Clip and the size at which the detector looks: multiples of 32, so that no program rounds it.
FACES = {"jwpIntro.mp4": "640x480", "bigbuckbunny.mp4": "640x352"}
MOTION = ["vtest.avi", "bigbuckbunny.mp4"]
X264 = ["-preset", "veryfast", "-crf", "20"]
DEFACE_X264 = json.dumps({"codec": "libx264", "quality": None, "macro_block_size": 1, "output_params": X264})


def probe(path):
    """Width, height and number of frames."""
    text = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets", "-show_entries",
                           "stream=width,height,nb_read_packets", "-of", "json", path], check=True, capture_output=True, text=True).stdout
    stream = json.loads(text)["streams"][0]
    return stream["width"], stream["height"], int(stream["nb_read_packets"])


def timed(command):
    begun = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stderr}")
    return time.monotonic() - begun


def contests(args):
    """(kind, clip, commands by name, files that must have the clip's size): the first command is the peer."""
    found = []
    run = lambda clip, *rest: [args.bin, "run", clip, "--overwrite", "--quiet", *rest]
    encode = ["--preset", "veryfast", "--crf", "20"]
    out = lambda name: os.path.join(args.out, name)
    for name, size in FACES.items():
        clip = os.path.join(args.clips, name)
        found.append(("faces", clip, {
            "deface": [args.deface, clip, "-o", out("deface.mp4"), "--scale", size, "--ffmpeg-config", DEFACE_X264],
            **{f"frameloom, every={n}{', cascade' if more else ''}": run(
                clip, "-o", out(f"faces{n}.mp4"), "-f", f"faces:action=blur:every={n}:size={size}{more}", *encode)
               for more in ("", ":cascade=true") for n in (1, 3)},
        }, [out("deface.mp4"), out("faces1.mp4"), out("faces3.mp4")]))
    python = [sys.executable, os.path.join(HERE, "mog2_peer.py")]
    for name in MOTION:
        clip = os.path.join(args.clips, name)
        found.append(("motion, no output", clip, {
            "MOG2 in Python": [*python, clip],
            "frameloom": run(clip, "-f", "motion:method=mog2", "--detections-only", "--detections", out("motion.jsonl")),
        }, []))
        found.append(("motion, x264", clip, {
            "MOG2 in Python": [*python, clip, out("peer.mp4")],
            "frameloom": run(clip, "-o", out("motion.mp4"), "-f", "motion:method=mog2:action=boxes", *encode),
        }, [out("peer.mp4"), out("motion.mp4")]))
    return [one for one in found if not args.only or args.only in one[0]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="", help="frameloom; left out, only the peers are measured")
    parser.add_argument("--deface", required=True)
    parser.add_argument("--clips", required=True)
    parser.add_argument("--out", default=".cache/detect-out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="faces or motion")
    parser.add_argument("--page", action="store_true", help="write the table to docs/benchmarks.md")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    lines = ["| | clip | program | ms a frame, median | spread | times as fast as the peer |", "|---|---|---|---|---|---|"]
    for kind, clip, commands, outputs in contests(args):
        commands = {name: command for name, command in commands.items() if args.bin or command[0] != args.bin}
        width, height, frames = probe(clip)
        rounds = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                rounds[name].append(timed(command))
        for path in outputs:
            if os.path.exists(path) and probe(path) != (width, height, frames):
                raise SystemExit(f"{path}: {probe(path)} instead of {(width, height, frames)}")
        peer = next(iter(rounds.values()))
        for name, seconds in rounds.items():
            ratio = statistics.median(p / s for p, s in zip(peer, seconds))
            lines.append(f"| {kind} | {os.path.basename(clip)} | {name} | {1000 * statistics.median(seconds) / frames:.1f} | "
                         f"{1000 * (max(seconds) - min(seconds)) / frames:.1f} | {ratio:.2f} |")
            print(lines[-1], flush=True)
    if args.page:
        page.write("detect", [f"{args.rounds} rounds in turn, start of the program included; {page.machine()}.", "", *lines])


if __name__ == "__main__":
    main()
