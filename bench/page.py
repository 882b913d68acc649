"""Writes what was measured into docs/benchmarks.md, or another page, between two marks."""

import os
import platform
import re

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs", "benchmarks.md")


def machine():
    cpu = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    return f"{os.cpu_count()} cores ({cpu.group(1) if cpu else platform.machine()})"


def write(mark, lines, page=PAGE):
    """Replaces what stands between `<!-- MARK -->` and `<!-- end MARK -->`."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- end {mark} -->"
    with open(page) as file:
        head, rest = file.read().split(begin)
    with open(page, "w") as file:
        file.write(head + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1])
