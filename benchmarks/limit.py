"""The limit of any merge: read every input once, write and sync the output once.

    python -m benchmarks.limit OUT INPUT...        prints the seconds it took

The first input stands for the output's bytes. Two or more threads move chunks of 512 KiB through one small buffer each.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path

CHUNK = 1 << 19


def move(out: Path, inputs: list[Path], threads: int) -> float:
    """Seconds to read all inputs, and to write and sync as many bytes as the first one has."""
    started = time.perf_counter()
    target = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    sources = [os.open(path, os.O_RDONLY) for path in inputs]
    sizes = [os.fstat(fd).st_size for fd in sources]

    def work(share: int) -> None:
        buffer = bytearray(CHUNK)
        for index, (fd, size) in enumerate(zip(sources, sizes, strict=True)):
            for offset in range(share * CHUNK, size, threads * CHUNK):
                count = os.preadv(fd, [buffer], offset)
                if index == 0:
                    os.pwrite(target, memoryview(buffer)[:count], offset)

    workers = [threading.Thread(target=work, args=(share,)) for share in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    os.fsync(target)
    os.close(target)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.limit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+")
    asked = parser.parse_args()
    print(move(asked.out, asked.inputs, len(os.sched_getaffinity(0))))


if __name__ == "__main__":
    main()
