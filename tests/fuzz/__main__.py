"""`python -m tests.fuzz`: feed many hostile inputs to Mergery in a process that may die, and report.

Exits with code 1 where an input was neither accepted nor refused with a clear message, took more than a second or much
memory, touched a file outside its output, or ran code. Such inputs are written to the folder of `--found`.
"""

from __future__ import annotations

import argparse
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.inputs import Case, make

os.environ["HF_HUB_OFFLINE"] = "1"

FIELDS = ("at", "inputs", "accepted", "refused", "crashes", "slowest", "slowest_at")
STUCK = 60.0  # processor seconds on one input after which the process is given up; on a busy machine they take long
ASLEEP = 1200.0  # seconds, of a process that waits for something
SPARE = 6 << 30  # bytes of address space that it may take beyond what it has at first
FOUND = Path(__file__).parent / "found"


class Board:
    """Numbers that parent and child both see."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(FIELDS))

    def get(self, name: str) -> int:
        return struct.unpack_from("<q", self._memory, 8 * FIELDS.index(name))[0]

    def set(self, name: str, value: int) -> None:
        struct.pack_into("<q", self._memory, 8 * FIELDS.index(name), value)

    def add(self, name: str) -> None:
        self.set(name, self.get(name) + 1)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other inputs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--kind", default=None, help="inputs of this kind only")
    parser.add_argument("--found", type=Path, default=FOUND, help="where inputs that fail are written")
    parser.add_argument("--replay", type=Path, default=None, help="feed the inputs of this folder instead")
    asked = parser.parse_args(arguments)
    corpus = sorted(asked.replay.glob("*.json")) if asked.replay else []
    if asked.replay:
        asked.count, asked.seed, asked.found = len(corpus), 0, FOUND
    board, started = Board(), time.monotonic()
    room = Path(tempfile.mkdtemp(prefix="mergery-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    first = asked.seed * 1_000_000_000
    end = first + asked.count
    at = first
    try:
        while at < end:
            died = supervise(board, at, end, started + asked.seconds, room, asked, corpus)
            if died is None:
                break
            at = board.get("at") + 1
            board.add("inputs")
            board.add("crashes")
            keep(asked.found, board.get("at"), case_of(board.get("at"), asked, corpus).dump(), [died])
    finally:
        shutil.rmtree(room, ignore_errors=True)
    seconds = time.monotonic() - started
    slowest = f"{board.get('slowest') / 1e6:.3f} s (seed {board.get('slowest_at')})"
    print(
        f"{board.get('inputs'):,} inputs: {board.get('accepted'):,} accepted, {board.get('refused'):,} refused, "
        f"{board.get('crashes'):,} crashes; slowest {slowest}; {board.get('inputs') / seconds:,.0f} inputs/s"
    )
    return 1 if board.get("crashes") else 0


def supervise(
    board: Board, at: int, end: int, until: float, room: Path, asked: argparse.Namespace, corpus: list[Path]
) -> str | None:
    """Feed inputs in a child. Returns how it died, or None where it ended well."""
    place = room / str(at)
    place.mkdir()
    board.set("at", at)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            work(board, at, end, until, place, asked, corpus)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    seen, since, spent, pause = (-1, -1), time.monotonic(), 0.0, 0.01
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        now = (board.get("at"), board.get("inputs"))
        if now != seen:
            seen, since, spent = now, time.monotonic(), processor(child)
        elif processor(child) - spent > STUCK or time.monotonic() - since > ASLEEP:
            os.kill(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return "it would not end and could not be stopped" if name == "SIGKILL" else f"the process died of {name}"
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("the fuzzer itself failed")
    return None


def processor(child: int) -> float:
    """Seconds that a process has computed; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work(
    board: Board, at: int, end: int, until: float, room: Path, asked: argparse.Namespace, corpus: list[Path]
) -> None:
    """Feed the inputs of seeds `at` to `end`."""
    from tests.fuzz.feed import Feeder

    sys.dont_write_bytecode = True
    feeder = Feeder(room)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + SPARE,) * 2)
    for seed in range(at, end):
        if time.monotonic() > until:
            return
        case = case_of(seed, asked, corpus)
        board.set("at", seed)
        outcome = feeder.feed(case)
        board.add("inputs")
        if outcome.faults:
            board.add("crashes")
            keep(asked.found, seed, case.dump(), outcome.faults)
        else:
            board.add("accepted" if outcome.accepted else "refused")
        if outcome.seconds * 1e6 > board.get("slowest"):
            board.set("slowest", int(outcome.seconds * 1e6))
            board.set("slowest_at", seed)


def case_of(seed: int, asked: argparse.Namespace, corpus: list[Path]) -> Case:
    """The input of a seed, or the one at that place of a corpus."""
    return Case.load(corpus[seed].read_text()) if corpus else make(seed, asked.kind)


def keep(folder: Path, seed: int, text: str, faults: list[str]) -> None:
    """Write an input that failed, and say how."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{seed}.json").write_text(text)
    print(f"seed {seed}: {'; '.join(faults)[:300]}")


if __name__ == "__main__":
    sys.exit(main())
