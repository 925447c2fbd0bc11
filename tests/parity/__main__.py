"""Compares what Mergery and mergekit make of the same files: `python -m tests.parity --mergekit-python PATH`.

Writes RESULTS.md beside this file and exits with code 1 when any comparison fails. Nothing is skipped: with --only, the
table says so and is printed but not written.
"""

from __future__ import annotations

import argparse
import shutil
import string
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from tests.parity import arithmetic, compare, folders, lost_weights, sampling
from tests.parity.cases import DRAWN, SAME, Case
from tests.parity.differences import check, claims
from tests.parity.models import MEMBERS, make
from tests.parity.programs import Mergekit, mergery_merge
from tests.parity.stacks import STACKS, STAGES
from tests.parity.tokens import CASES as TOKENS
from tests.parity.tokens import compare_tokens

RESULTS = Path(__file__).with_name("RESULTS.md")
NOISY = ("arcee_fusion",)  # its divergences lose digits in float32, and with them a few entries at the threshold


@dataclass
class Run:
    """One comparison and how it went."""

    group: str
    cells: list[str]
    problem: str | None = None


@dataclass
class Session:
    """Folders, the mergekit process, and the results so far."""

    work: Path
    mergekit: Mergekit
    runs: list[Run] = field(default_factory=list)
    count: int = 0

    def members(self, family: str, dtype: str) -> dict[str, Path]:
        home = make(self.work / "models", family, dtype)
        return {member: home / member for member in MEMBERS}

    def fresh(self) -> Path:
        self.count += 1
        folder = self.work / f"run-{self.count:04d}"
        folder.mkdir()
        return folder

    def file(self, folder: Path, name: str, text: str, family: str, dtype: str) -> Path:
        path = folder / name
        path.write_text(string.Template(text).substitute(self.members(family, dtype), dtype=dtype))
        return path

    def theirs(self, folder: Path, name: str, text: str, family: str, dtype: str) -> Path:
        """What mergekit makes of a text. Raises ValueError with its message."""
        config = self.file(folder, f"{name}.yml", text, family, dtype)
        work = folder / f"{name}-stages" if text.count("merge_method:") > 1 else None
        error = self.mergekit.merge(config, folder / name, work=work)
        if error:
            raise ValueError(f"mergekit fails: {error}")
        return folder / name

    def mine(self, folder: Path, text: str, family: str, dtype: str) -> Path:
        config = self.file(folder, "mergery.yml", text, family, dtype)
        error = mergery_merge(config, folder / "mergery")
        if error:
            raise ValueError(f"Mergery fails: {error}")
        return folder / "mergery"


def compare_case(session: Session, case: Case) -> Run:
    """Run one file through both programs."""
    run = Run("same", [case.method, case.name, case.family, case.dtype, "", ""])
    folder = session.fresh()
    try:
        session.members(case.family, case.dtype)
        reference = reference_of(case)
        with ThreadPoolExecutor(1) as beside:
            waiting = beside.submit(session.mine, folder, case.text, case.family, case.dtype)
            theirs = session.theirs(folder, "mergekit", case.text, case.family, case.dtype)
            truth = session.theirs(folder, "reference", reference, case.family, case.dtype) if reference else None
            mine = waiting.result()
        a, b = compare.pair(mine, theirs)
        run.problem = compare.unequal_headers(a, b)
        a, b = ({name: side[name] for name in side if not case.meant_apart(name)} for side in (a, b))
        if run.problem is None:
            compare.loaded(mine)
            if truth is not None:
                exact = compare.pair(truth, mine)[0]
                exact = {name: tensor for name, tensor in exact.items() if name in a}
                own, other, run.problem = compare.errors(a, b, exact)
                run.cells[4:] = [f"{own:.1e}", f"{other:.1e}"]
            else:
                gap = compare.distance(a, b)
                run.cells[4] = f"{gap:.1e}"
                run.problem = None if gap <= compare.EXACT else f"{gap:.2e} apart"
    except ValueError as error:
        run.problem = str(error)
    if run.problem is None:
        shutil.rmtree(folder)
    return run


def reference_of(case: Case) -> str | None:
    """The file whose result by mergekit both outputs are measured against: the same in float64, on the same models."""
    if case.dtype == "float32" and "out_dtype: bfloat16" not in case.text and case.method not in NOISY:
        return None
    lines = [line for line in case.text.splitlines() if not line.startswith("out_dtype:")]
    return "\n".join(lines).replace("dtype: $dtype", "dtype: float64") + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def report(session: Session, seconds: float) -> str:
    runs = session.runs
    failed = sum(run.problem is not None for run in runs)
    groups = {name: [run for run in runs if run.group == name] for name in ("same", "tokens", "drawn", "different")}

    def rows(group: str) -> list[list[str]]:
        return [
            [*run.cells, "yes" if run.problem is None else f"NO: {run.problem.splitlines()[0]}"]
            for run in groups[group]
        ]

    return "\n".join(
        [
            "# Mergery and mergekit on the same files",
            "",
            f"Written by `python -m tests.parity` with mergekit 0.1.5, torch {torch.__version__.split('+')[0]} and "
            f"transformers {transformers.__version__}: {len(runs)} comparisons, {failed} failed, {seconds:.0f} s.",
            "",
            "## Equal results",
            "",
            "float32: the largest difference of any value, relative to the largest magnitude of its tensor, is at most "
            f"{compare.EXACT:g}. bfloat16 (also as `out_dtype`) and `arcee_fusion`: the root mean square error of each tensor "
            "against mergekit's own result with `dtype: float64` is at most mergekit's (times "
            f"{compare.SLACK:g}); shown is the worst tensor's error, relative to its root mean square. Every output of "
            "Mergery was loaded by transformers with no weight missing and none left over.",
            "",
            table(["method", "file", "model", "dtype", "Mergery", "mergekit", "holds"], rows("same")),
            "",
            "## Vocabularies that differ",
            "",
            "Three models of one family with other numbers of rows and other words: each token's row, and every other tensor, "
            f"differs by at most {compare.EXACT:g} of its tensor's largest magnitude. mergekit numbers new tokens in no fixed "
            "order, so rows are compared by token.",
            "",
            table(["file", "model", "tokens", "difference", "holds"], rows("tokens")),
            "",
            "## Random methods",
            "",
            sampling.CRITERION,
            "",
            table(["method", "density", *sampling.COLUMNS, "holds"], rows("drawn")),
            "",
            "## Where mergekit is wrong or silent",
            "",
            "Each row was run: what mergekit 0.1.5 did and what Mergery did instead.",
            "",
            table(["difference", "mergekit 0.1.5", "Mergery", "holds"], rows("different")),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("--mergekit-python", type=Path, required=True, help="the interpreter that has mergekit 0.1.5")
    parser.add_argument("--work", type=Path, help="where models and failed outputs stay; else a temporary folder")
    parser.add_argument("--only", default="", help="run the comparisons whose name holds this text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        for left in work.glob("run-*"):
            shutil.rmtree(left)
        with Mergekit(options.mergekit_python, work / "mergekit.log") as mergekit:
            session = Session(work, mergekit)
            for case in [*SAME, *STACKS, *STAGES]:
                if options.only in f"{case.method}: {case.name} {case.family} {case.dtype}":
                    note(session, compare_case(session, case))
            for tokens in TOKENS:
                if options.only in f"tokens {tokens.name} {tokens.family}":
                    note(session, Run("tokens", *compare_tokens(session, tokens)))
            for drawn in DRAWN:
                if options.only in f"drawn {drawn.method}":
                    note(session, Run("drawn", *sampling.check(session, drawn)))
            for difference in claims(lost_weights, arithmetic, folders):
                if options.only in f"different {difference.name}":
                    note(
                        session,
                        Run("different", *check(session, difference, options.mergekit_python)),
                    )
        text = report(session, time.monotonic() - start)
    print(text)
    if options.only:
        print(f"Only comparisons with {options.only!r} were run; {RESULTS.name} is unchanged.")
    else:
        RESULTS.write_text(text)
    return 1 if any(run.problem for run in session.runs) else 0


def note(session: Session, run: Run) -> None:
    session.runs.append(run)
    print(f"{'ok  ' if run.problem is None else 'FAIL'} {' | '.join(run.cells)}", file=sys.stderr)
    if run.problem:
        print(f"     {run.problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
