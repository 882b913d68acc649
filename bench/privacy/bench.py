"""How much of known faces each program leaves to be seen; see score.py for what counts, make.py for the set.

    python bench/privacy/bench.py --set DIR --out DIR [--bin FRAMELOOM] [--deface DEFACE] [--outputs NAME=DIR …] [--page]

Each program's outputs are kept in OUT/PROGRAM. deface's are used again while the set is the same. `--outputs` scores the clips
that any other program wrote into a folder, under the scenes' names; a detections file lies beside each as SCENE.jsonl.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import checks
import detections
import page
import score
from scenes import scenes


def programs(args):
    """Name, command for a clip, its output and a detections file, and whether old outputs may be used again."""
    found = {}
    if args.deface:
        found["deface, blur"] = (lambda clip, out, _: [args.deface, clip, "-o", out], True)
        found["deface, solid"] = (lambda clip, out, _: [args.deface, clip, "-o", out, "--replacewith", "solid"], True)
    if args.bin:
        for name, spec in {"frameloom, fill": "faces:action=fill", "frameloom, fill, every=3": "faces:action=fill:every=3",
                           "frameloom, fill, cascade": "faces:action=fill:cascade=true", "frameloom, blur": "faces:action=blur",
                           **{f"frameloom, {spec}": spec for spec in args.also}}.items():
            found[name] = (lambda clip, out, file, spec=spec: [args.bin, "run", clip, "-o", out, "-f", spec, "--detections", file,
                                                               "--overwrite", "--quiet"], False)
    only = [name.strip() for name in args.programs.split(";") if name.strip()]
    return {name: program for name, program in found.items() if not only or name in only}


def run(name, program, truths, args):
    """Runs a program over the set; its folder and the seconds that it took (None where nothing was run)."""
    command, keep = program
    folder, took = os.path.join(args.out, name.replace(", ", "-")), 0.0
    stamp = os.path.join(folder, "recipe")
    made = open(os.path.join(args.set, "recipe")).read()
    if not (keep and os.path.exists(stamp) and open(stamp).read() == made):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        with open(stamp, "w") as file:
            file.write(made)
    for scene in truths:
        out, file = os.path.join(folder, f"{scene}.mp4"), os.path.join(folder, f"{scene}.jsonl")
        if os.path.exists(out):
            continue
        begun = time.monotonic()
        part = os.path.join(folder, "part.mp4")
        words = command(os.path.join(args.set, f"{scene}.mp4"), part, file)
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode or not os.path.exists(part):
            raise SystemExit(f"{' '.join(words)}: {done.returncode}\n{done.stderr}")
        os.replace(part, out)
        took += time.monotonic() - begun
    return folder, took or None


def scored(folder, truths, args):
    return {scene: score.score(os.path.join(args.set, f"{scene}.mp4"), os.path.join(args.out, "encoded", f"{scene}.mp4"),
                               os.path.join(folder, f"{scene}.mp4"), truth) for scene, truth in truths.items()}


def check(truths, args):
    """Encodes each scene with nothing hidden, for comparison, and sees that outputs of known score get that score."""
    encoded = os.path.join(args.out, "encoded")
    os.makedirs(encoded, exist_ok=True)
    made = open(os.path.join(args.set, "recipe")).read()
    stamp = os.path.join(encoded, "recipe")
    fresh = not (os.path.exists(stamp) and open(stamp).read() == made)
    for scene, truth in truths.items():
        clip, to = os.path.join(args.set, f"{scene}.mp4"), os.path.join(encoded, f"{scene}.mp4")
        if fresh or not os.path.exists(to):
            checks.make(checks.plain, clip, truth, to)
    with open(stamp, "w") as file:
        file.write(made)
    wrong = []
    for name, (change, least, most) in checks.CHECKS.items():
        leaked = seen = 0
        beside = {}
        for scene, truth in truths.items():
            if not checks.applies(name, truth):
                continue
            clip, to = os.path.join(args.set, f"{scene}.mp4"), os.path.join(args.out, "check.mp4")
            # Coarser than what it is compared with, so that the two are not the same bytes.
            checks.make(change, clip, truth, to, crf=27)
            one = score.score(clip, os.path.join(encoded, f"{scene}.mp4"), to, truth)
            counts = [one.count(large) for large in (True, False)]
            beside[scene] = one.beside
            leaked, seen = leaked + sum(c[0] for c in counts), seen + sum(c[1] for c in counts)
            part = sum(c[0] for c in counts) / max(1, sum(c[1] for c in counts))
            if not least <= part <= most:
                print(f"check: {name}, {scene}: {100 * part:.1f} % leaked", flush=True)
        print(f"check: {name}: {100 * leaked / seen:.1f} % of {seen} faces leaked, "
              f"{100 * max(beside.values()):.3f} % changed beside faces where most ({max(beside, key=beside.get)})", flush=True)
        if not least <= leaked / seen <= most or max(beside.values()) > checks.BESIDE:
            wrong.append(name)
    if wrong:
        raise SystemExit(f"the measure itself is off: {', '.join(wrong)}")


def percent(pair):
    return f"{100 * pair[0] / pair[1]:.1f}" if pair[1] else ""


def total(scores, large):
    """Over all scenes but the easy one."""
    counts = [one.count(large) for scene, one in scores.items() if scene != "easy"]
    return sum(c[0] for c in counts), sum(c[1] for c in counts)


def tables(results, folders, times, truths):
    """The tables, as lines of Markdown."""
    names = list(results)
    lines = ["| leaked, % (> 40 px / smaller) | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for scene in truths:
        cells = [" / ".join(percent(results[name][scene].count(large)) for large in (True, False)) for name in names]
        lines.append(f"| {scene} | " + " | ".join(cells) + " |")
    rows = {"all but easy": lambda s: " / ".join(percent(total(s, large)) for large in (True, False)),
            "flicker: gaps in faces' lives": lambda s: " / ".join(str(sum(one.flicker(large) for one in s.values())) for large in (True, False)),
            "beside faces, % of the picture": lambda s: f"{100 * sum(one.beside for one in s.values()) / len(s):.2f}",
            "most in a scene, %": lambda s: f"{100 * max(one.beside for one in s.values()):.2f}",
            "occlusions hidden throughout": lambda s: "{} of {}".format(*map(sum, zip(*(one.bridged() for one in s.values()))))}
    for title, row in rows.items():
        lines.append(f"| {title} | " + " | ".join(row(results[name]) for name in names) + " |")
    lines.append("| seconds | " + " | ".join(f"{times[name]:.0f}" if times.get(name) else "" for name in names) + " |")
    found = {name: {scene: os.path.join(folders[name], f"{scene}.jsonl") for scene in truths} for name in names}
    found = {name: files for name, files in found.items() if all(map(os.path.exists, files.values()))}
    if found:
        lines += ["", "| | recall on easy | mean IoU on easy | tracks unbroken over occlusions |", "|---|---|---|---|"]
    for name, files in found.items():
        boxes = {scene: detections.read(file) for scene, file in files.items()}
        recall, fit = detections.of_easy(boxes["easy"], truths["easy"]) if "easy" in truths else (float("nan"),) * 2
        same = [detections.unbroken(boxes[scene], truth, results[name][scene].faces) for scene, truth in truths.items()]
        lines.append(f"| {name} | {recall:.3f} | {fit:.2f} | {sum(s[0] for s in same)} of {sum(s[1] for s in same)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--bin", default="", help="frameloom; left out, it is not measured")
    parser.add_argument("--deface", default="", help="deface; left out, it is not measured")
    parser.add_argument("--programs", default="", help="these only, by the tables' names, with semicolons")
    parser.add_argument("--also", action="append", default=[], help="a filter to measure as well, like faces:action=fill:margin=15")
    parser.add_argument("--outputs", action="append", default=[], help="NAME=DIR: score these clips as well")
    parser.add_argument("--only", default="", help="these scenes only, with commas")
    parser.add_argument("--no-check", action="store_true", help="trust the measure")
    parser.add_argument("--page", action="store_true", help="write the tables to docs/benchmarks.md")
    args = parser.parse_args()
    only = [name for name in args.only.split(",") if name]
    truths = {scene.name: json.load(open(os.path.join(args.set, f"{scene.name}.json"))) for scene in scenes()
              if not only or scene.name in only}
    if args.no_check and len(glob.glob(os.path.join(args.out, "encoded", "*.mp4"))) < len(truths):
        raise SystemExit("--no-check needs a run with the check before it")
    if not args.no_check:
        check(truths, args)
    results, folders, times = {}, {}, {}
    for name, program in programs(args).items():
        folders[name], times[name] = run(name, program, truths, args)
    for other in args.outputs:
        name, _, folder = other.partition("=")
        folders[name] = folder
    for name, folder in folders.items():
        results[name] = scored(folder, truths, args)
        print(f"{name}: leaked {percent(total(results[name], True))} % of large faces, {percent(total(results[name], False))} % of small", flush=True)
    lines = tables(results, folders, times, truths)
    print("\n".join(lines))
    if args.page:
        pictures = sum(len(truth["frames"]) for truth in truths.values())
        page.write("privacy", [f"{len(truths)} scenes, {pictures} frames of 960×544; {page.machine()}.", "", *lines])


if __name__ == "__main__":
    main()
