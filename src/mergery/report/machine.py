"""What this machine has for merging, what is missing, and what that costs. Nothing heavy is loaded to find it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mergery.errors import size
from mergery.kernels import choice
from mergery.run.estimate import GPUS, machine_memory
from mergery.version import __version__

LITTLE_DISK = 20 << 30  # bytes: an 8B model in 16 bits takes 16 GB
PACKAGES = {  # what it is for, and what is lost without it
    "transformers": "`mergery evaluate` and `compare` cannot run models",
    "safetensors": "transformers cannot load what was merged",
    "tokenizers": "fast tokenizers cannot be loaded",
    "optuna": "`mergery search` and `auto` cannot draw candidates",
    "peft": "adapters cannot be evaluated on their base",
    "gguf": "GGUF files cannot be read",
    "lm_eval": "`mergery evaluate --harness` cannot run tasks of lm-eval",
    "ray": "`mergery merge --ray` cannot use other machines",
    "matplotlib": "`mergery compare --plot` cannot draw",
}


@dataclass(frozen=True)
class Found:
    """One thing that was looked for. `costs` says what is lost by it, and `hint` what to do; empty where it is well."""

    what: str
    found: str
    costs: str = ""
    hint: str = ""


def look_around(folder: Path = Path()) -> list[Found]:
    """All that is looked for; `folder` is where a merge would be written."""
    return [
        Found(
            "Mergery", f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        ),
        torch_found(),
        kernels_found(),
        blas_found(),
        gpus_found(),
        cores_found(),
        memory_found(),
        disk_found(folder),
        kernel_cache_found(),
        hub_found(),
        *(package_found(name, costs) for name, costs in PACKAGES.items()),
    ]


def installed(name: str) -> str | None:
    """The version of a package that is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def cuda_of_torch() -> str | None:
    """The CUDA for which the installed torch is built, from its files."""
    spec = importlib.util.find_spec("torch")
    for place in spec.submodule_search_locations or () if spec else ():
        text = (Path(place) / "version.py").read_text(encoding="utf-8")
        if found := re.search(r"^cuda(?:: [^=]+)? = '([\d.]+)'", text, re.M):
            return found[1]
    return None


def torch_found() -> Found:
    number, cuda = installed("torch"), cuda_of_torch()
    if number is None:
        return Found("torch", "missing", "methods on matrices and evaluation do not work", "pip install torch")
    return Found("torch", f"{number}, built for {f'CUDA {cuda}' if cuda else 'processors alone'}")


def kernels_found() -> Found:
    number = installed("numba")
    if choice() == "compiled":
        return Found("numba", f"{number}: kernels are compiled for this processor")
    if number:
        return Found("numba", f"{number}, but MERGERY_KERNELS=readable", SLOW, "unset MERGERY_KERNELS")
    return Found("numba", "missing", SLOW, "pip install numba")


SLOW = "element-wise merges take about eight times as long"


def blas_found() -> Found:
    import numpy

    facts = numpy.show_config(mode="dicts") or {}
    blas = facts.get("Build Dependencies", {}).get("blas", {})
    return Found("BLAS", f"{blas.get('name', 'unknown')} {blas.get('version', '')}, of numpy {numpy.__version__}")


def gpus_found() -> Found:
    """GPUs that the system's driver lists."""
    here = [path.name for path in GPUS.iterdir()] if GPUS.is_dir() else []
    if not here:
        return Found("GPUs", "none that the driver lists; merging rarely gains from one")
    if cuda_of_torch() is None:
        costs = "`--device cuda` cannot use them"
        return Found(
            "GPUs", f"{len(here)}, but torch is built for processors alone", costs, "install torch's CUDA build"
        )
    return Found("GPUs", f"{len(here)}; `--device cuda` uses them")


def cores_found() -> Found:
    cores, all_cores, share = len(os.sched_getaffinity(0)), os.cpu_count() or 1, processor_share()
    if share is not None and share < cores:
        costs = "threads beyond that wait for one another"
        return Found("cores", f"{cores}, of which {share:g} may be used", costs, f"say --threads {max(1, int(share))}")
    return Found("cores", f"{cores}" if cores == all_cores else f"{cores} of {all_cores}")


def processor_share() -> float | None:
    """How many cores' time a container may take; None where nothing is said."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def memory_found() -> Found:
    whole, free = machine_memory(), available_memory()
    return Found("memory", size(whole) + (f", {size(free)} available" if free is not None else ""))


def available_memory() -> int | None:
    """Bytes of memory that are free, or could be."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        return None
    return min(int(found[1]) << 10, machine_memory()) if found else None


def disk_found(folder: Path) -> Found:
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Found(
            "disk", f"{size(free)} free, but this folder cannot be written", "OUT must be elsewhere", "name it"
        )
    if free < LITTLE_DISK:
        return Found("disk", f"{size(free)} free here", "an 8B model takes 16 GB", "write to another disk")
    return Found("disk", f"{size(free)} free here")


def kernel_cache_found() -> Found:
    """Where compiled kernels are kept: beside the sources, or in the user's cache."""
    spec = importlib.util.find_spec("mergery.kernels")
    beside = [Path(place) / "compiled" for place in (spec.submodule_search_locations or () if spec else ())]
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergery"
    for folder in (*beside, own):
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        if os.access(existing, os.W_OK):
            return Found("kernel cache", str(folder))
    costs = "every run compiles its kernels anew, up to half a minute"
    return Found("kernel cache", "no folder can be written", costs, "set XDG_CACHE_HOME to one that can")


def hub_found() -> Found:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface").expanduser()
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    words = f"huggingface_hub {installed('huggingface_hub')}, models in {folder}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Found("hub", words, "HF_HUB_OFFLINE is set: nothing is downloaded", "unset it to download models")
    if not (os.environ.get("HF_TOKEN") or (home / "token").exists()):
        return Found("hub", words, "gated and private models cannot be read", "run `hf auth login`")
    return Found("hub", f"{words}, with a token")


def package_found(name: str, costs: str) -> Found:
    number = installed(name)
    return Found(name, number) if number else Found(name, "not installed", costs, f"pip install {name}")
