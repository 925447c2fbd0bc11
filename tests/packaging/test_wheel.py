"""The wheel that `make dist` builds: it has everything, and what is installed from it merges."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import mergery
from tests.house.rules import names

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "mergery"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the setuptools that is installed, from a copy of the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(SOURCES, copy / "src" / "mergery", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy)
    return next((copy / "dist").glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel is installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    quiet = ("-q", "--disable-pip-version-check", "--root-user-action=ignore")
    run(sys.executable, "-m", "pip", "install", *quiet, "--no-index", "--no-deps", "--target", folder, wheel)
    return folder


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"mergery-{mergery.__version__}.dist-info/METADATA").decode())


def run(*command: object, **kwargs: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **kwargs)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for path in SOURCES.rglob("*.*") if path.suffix != ".md" and "__pycache__" not in path.parts)
    assert found == {path.relative_to(SOURCES.parent).as_posix() for path in files}
    assert {"mergery/py.typed", "mergery/checkpoints/tokenizer/templates/chatml.jinja"} <= found


def test_what_is_installed_is_a_command_that_merges(installed, tmp_path):
    command, environment = installed / "bin" / "mergery", {**os.environ, "PYTHONPATH": str(installed)}
    environment["MERGERY_KERNELS"] = "readable"  # the same bytes, without compiling for half a minute
    where = run(sys.executable, "-c", "import mergery; print(mergery.__file__)", cwd=tmp_path, env=environment)
    assert Path(where.strip()) == installed / "mergery" / "__init__.py"
    assert run(command, "--version", cwd=tmp_path, env=environment).strip() == f"mergery {mergery.__version__}"
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_file({"weight": np.full((2, 3), value, np.float32)}, tmp_path / f"{name}.safetensors")
    recipe = {"models": {name: f"./{name}.safetensors" for name in "ab"}, "merge": {"method": "linear"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(command, "merge", "recipe.yaml", "merged", cwd=tmp_path, env=environment)
    np.testing.assert_array_equal(load_file(tmp_path / "merged/a.safetensors")["weight"], np.full((2, 3), 1.5))


def test_all_that_the_package_imports_is_declared(metadata):
    declared = {re.split(r"[^\w-]", line)[0] for line in metadata.get_all("Requires-Dist", [])}
    declared |= {"llvmlite", "datasets"}  # numba's own half, in its version; lm-eval's
    homes = {"llama_cpp": ["llama-cpp-python"], **packages_distributions()}  # is compiled, and not needed here
    declared, homes = {*declared, "ipython"}, {"IPython": ["ipython"], **homes}  # a notebook has it
    own = sys.stdlib_module_names | {"mergery", "", "?"}
    imported = {name.split(".")[0] for file in SOURCES.rglob("*.py") for name in names(file.read_text("utf-8"))}
    for name in imported - own:
        found = {distribution.lower().replace("_", "-") for distribution in homes[name]}
        assert found & {one.lower().replace("_", "-") for one in declared}, f"{name} is imported"


def test_a_plain_install_is_a_fast_one(metadata):
    plain = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert any(line.startswith("numba") for line in plain)


def test_one_version_is_stated():
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert changes is not None
    assert changes[1] == cited == mergery.__version__


def test_an_old_python_is_told_in_one_line(tmp_path):
    old = tmp_path / "python3.10"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 10); exec(sys.argv[2])' \"$@\"\n"
    )
    old.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    }
    command = ["make", "-f", str(ROOT / "Makefile"), "demo", f"PYTHON={old}"]
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert said == [
        f"Mergery needs Python 3.11 or newer, and {sys.executable} is 3.10; name another: make PYTHON=python3.13"
    ]
    assert not (tmp_path / ".venv").exists()
