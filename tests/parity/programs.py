"""The two programs: mergekit behind one driver process, Mergery through its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_NUM_THREADS": "1",
}


class Mergekit:
    """mergekit in its own environment: one process for all jobs."""

    def __init__(self, python: Path, log: Path, **environment: str) -> None:
        self.log = log.open("w")
        self.options: dict[str, object] = {}
        command = [str(python), str(Path(__file__).with_name("driver.py"))]
        own = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"} | environment
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=own,
        )

    def merge(self, config: Path, out: Path, *, work: Path | None = None) -> str | None:
        """What went wrong, or None."""
        assert self.process.stdin is not None and self.process.stdout is not None
        job = {
            "config": str(config),
            "out": str(out),
            "work": str(work or out) + "-stages",
            "several": work is not None,
            "options": self.options,
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the mergekit process ended; see {self.log.name}")
        return json.loads(answer)["error"]

    def __enter__(self) -> Mergekit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.log.close()


def mergery(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Mergery's command line, as a process of its own."""
    command = [sys.executable, "-m", "mergery", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False)


def mergery_merge(config: Path, out: Path, *flags: str) -> str | None:
    """What went wrong, or None."""
    result = mergery("merge", config, out, "--quiet", "--threads", "1", *flags)
    return result.stderr.strip() or f"exit code {result.returncode}" if result.returncode else None
