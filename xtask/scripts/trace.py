"""The kernels of a step by name, from the files that trace.c wrote: python3 trace.py REPETITIONS FILE...

The last repetitions of a process are those after its last pause of more than 60 ms, in which the other side worked.
"""

import collections
import sys

PAUSE = 60e6
ROWS = 40


def read(path):
    rows = []
    for line in open(path, errors="replace"):
        start, end, grid, registers, name = line.rstrip("\n").split(" ", 4)
        rows.append((int(start), int(end), name.removeprefix("void ")[:90], grid, registers))
    return sorted(rows)


def last_part(rows):
    first, latest = 0, 0
    for at, (start, end, *_) in enumerate(rows):
        if at and start - latest > PAUSE:
            first = at
        latest = max(latest, end)
    return rows[first:]


def main():
    repetitions = int(sys.argv[1])
    for path in sys.argv[2:]:
        rows = last_part(read(path))
        if len(rows) < repetitions:
            continue
        busy, latest = 0, rows[0][0]
        times = collections.defaultdict(list)
        for start, end, *kernel in rows:
            busy += max(0, end - max(start, latest))
            latest = max(latest, end)
            times[tuple(kernel)].append(end - start)
        milliseconds = [nanoseconds / repetitions / 1e6 for nanoseconds in (latest - rows[0][0], busy)]
        print(f"{path}: {len(rows) / repetitions:.0f} launches, {milliseconds[0]:.2f} ms, busy for {milliseconds[1]:.2f}")
        for (name, grid, registers), each in sorted(times.items(), key=lambda item: -sum(item[1]))[:ROWS]:
            share, mean = sum(each) / repetitions / 1e6, sum(each) / len(each) / 1e3
            print(f"{share:8.3f} ms {len(each) / repetitions:7.1f} x {mean:8.1f} us  {grid} {registers} {name}")


main()
