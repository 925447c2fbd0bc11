"""Starting is cheap, and loads only what it uses."""

from __future__ import annotations

import resource
import subprocess
import sys

from mergery.cli.common import CHUNK, run_options
from mergery.run.workers import Options
from tests.conftest import mergery_process

HEAVY = ("torch", "transformers", "numba", "numpy", "huggingface_hub", "rich")


def loaded(code: str) -> set[str]:
    """Which heavy libraries a snippet loads."""
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_mergery_loads_nothing_heavy():
    assert loaded("import mergery") == set()


def test_listing_the_methods_loads_nothing_heavy():
    assert loaded("import mergery.method; assert len(mergery.method.methods()) > 15") == set()


def test_planning_and_an_element_wise_merge_do_without_torch(recipe, tmp_path):
    path = recipe("models: {base: {llamas}/base, a: {llamas}/a}\nmerge: {method: ties, base: base}\n")
    assert "torch" not in loaded(f"import mergery; mergery.plan({str(path)!r})")
    assert "torch" not in loaded(f"import mergery; mergery.merge({str(path)!r}, {str(tmp_path / 'out')!r})")


def test_the_command_line_and_the_engine_work_in_the_same_windows():
    assert run_options(0, CHUNK).chunk == Options().chunk


def children() -> float:
    """Processor seconds of all processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_answers_at_once():
    times = []
    for _ in range(3):
        started = children()
        done = mergery_process("--help")
        times.append(children() - started)
        assert done.returncode == 0
        assert "merge" in done.stdout
    bare = []
    for _ in range(3):
        started = children()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(children() - started)
    # On a quiet machine this is under 0.2 s of processor time; a busy one is slow at starting Python itself.
    assert min(times) < max(0.4, 8 * min(bare))
