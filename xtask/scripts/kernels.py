"""Launches and device time per step by kernel: kernels.py FEWER MORE STEPS compares two CubeCL profiling logs, the second
of which has STEPS steps more than the first."""

import collections
import re
import sys

LINE = re.compile(r"\| *([0-9.]+)(ns|µs|ms|s) *\| (.*)")
UNITS = {"ns": 1e-3, "µs": 1.0, "ms": 1e3, "s": 1e6}


def totals(path):
    found = collections.defaultdict(lambda: [0, 0.0])
    for line in open(path, encoding="utf-8", errors="replace"):
        match = LINE.search(line)
        # In the log's own sums, the number of launches is in the place of a kernel's name.
        if match and not match.group(3)[0].isdigit():
            value, unit, name = match.groups()
            found[name.strip()][0] += 1
            found[name.strip()][1] += float(value) * UNITS[unit]
    return found


fewer, more, steps = totals(sys.argv[1]), totals(sys.argv[2]), int(sys.argv[3])
rows = [
    (name, (count - fewer[name][0]) / steps, (time - fewer[name][1]) / steps) for name, (count, time) in more.items()
]
rows = sorted((row for row in rows if row[1] > 0), key=lambda row: -row[2])
print(f"per step: {sum(r[1] for r in rows):.0f} launches, {sum(r[2] for r in rows) / 1e3:.2f} ms on the device")
for name, count, time in rows[:40]:
    print(f"{count:8.1f} x {time / count:9.1f} µs = {time / 1e3:8.3f} ms  {name[:150]}")
