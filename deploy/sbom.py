#!/usr/bin/env python3
"""Prints what Frameloom's binary is made of, as a CycloneDX document.

That is the crates of Cargo.lock that it is built from, ONNX Runtime, and the models. Debian's
packages beside it are in the image's own /var/lib/dpkg/status.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def metadata():
    """What cargo knows of the crates for this platform."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform"]
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    platform = re.search(r"^host: (\S+)$", host, re.MULTILINE).group(1)
    told = subprocess.run([*command, platform], check=True, capture_output=True, cwd=ROOT)
    return json.loads(told.stdout)


def built(graph, root):
    """The ids of the crates that a release of `root` is built from, without those of tests."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    found, open_ = {root}, [root]
    while open_:
        for needed in nodes[open_.pop()]["deps"]:
            kinds = {kind["kind"] for kind in needed["dep_kinds"]}
            if needed["pkg"] not in found and kinds != {"dev"}:
                found.add(needed["pkg"])
                open_.append(needed["pkg"])
    return found


def crate(package, checksums):
    """A crate as a component."""
    name, version = package["name"], package["version"]
    component = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
    }
    if package.get("license"):
        expression = re.sub(r"\s*/\s*", " OR ", package["license"])
        component["licenses"] = [{"expression": expression}]
    if checksum := checksums.get((name, version)):
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return component


def file(path, kind, **more):
    """A file as a component."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    hashes = [{"alg": "SHA-256", "content": digest}]
    known = {"type": kind, "bom-ref": f"file:{path.name}", "name": path.name, "hashes": hashes}
    return known | more


def main():
    known = metadata()
    packages = {package["id"]: package for package in known["packages"]}
    root = next(id_ for id_, package in packages.items() if package["name"] == "frameloom")
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {(p["name"], p["version"]): p["checksum"] for p in lock if "checksum" in p}
    ids = built(known["resolve"], root)
    libraries = [crate(packages[id_], checksums) for id_ in sorted(ids - {root})]
    runtime = pathlib.Path("/usr/local/lib/frameloom").glob("libonnxruntime.so.*")
    libraries += [
        file(path, "library", version=path.name.split(".so.")[1], licenses=[{"expression": "MIT"}])
        for path in sorted(runtime)
    ]
    libraries += [
        file(path, "machine-learning-model") for path in sorted((ROOT / "models").glob("*.onnx"))
    ]
    dependencies = [
        {
            "ref": f"pkg:cargo/{packages[node['id']]['name']}@{packages[node['id']]['version']}",
            "dependsOn": sorted(
                f"pkg:cargo/{packages[d]['name']}@{packages[d]['version']}"
                for d in node["dependencies"]
                if d in ids
            ),
        }
        for node in known["resolve"]["nodes"]
        if node["id"] in ids
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": crate(packages[root], checksums) | {"type": "application"}},
        "components": libraries,
        "dependencies": dependencies,
    }
    json.dump(document, sys.stdout, indent=1)
    print()


main()
