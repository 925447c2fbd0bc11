"""What holds for all built-in methods together."""

import subprocess
import sys

import pytest

from mergery.method import methods
from mergery.testing.reference import REFERENCES

NAMES = [
    "ace", "actmat", "analogy", "arcee_fusion", "balanced", "breadcrumbs", "breadcrumbs_ties", "cart", "clamp",
    "consensus", "cosine_add", "dare_linear", "dare_ties", "dc_merge", "della", "della_linear", "doge", "dop", "emr",
    "expo", "geometric_median", "iso_c", "iso_cts", "karcher", "knots", "linear", "magmax", "metagpt", "model_stock",
    "monosoup", "multislerp", "nearswap", "negation", "neuromerging", "nuslerp", "onebit", "opcm", "optmerge",
    "orthomerge", "passthrough", "pcb", "ram", "ramplus_tl", "rebase", "resmerge", "rotate", "run_average", "sce",
    "slerp", "spectral_filter", "star", "subspace_boosting", "svc", "swudi", "swudi_a", "tall_mask",
    "task_arithmetic", "ties", "train_difference", "truncate", "trust_region", "tsv_compress", "tsv_merge", "wudi",
]  # fmt: skip


def built_in():
    return {name: method for name, method in methods().items() if method.function.__module__.startswith("mergery.")}


def test_every_method_is_there():
    assert set(NAMES) <= set(built_in())


def test_every_method_has_a_reference():
    assert set(NAMES) <= set(REFERENCES)


@pytest.mark.parametrize("name", NAMES)
def test_documentation(name):
    method = methods()[name]
    doc = method.doc
    assert len(method.summary) <= 110
    assert "out = " in doc, "the docstring states the formula"
    assert "Use it " in doc, "the docstring says when to use it"
    assert method.paper or name == "passthrough"
    if method.settings:
        block = doc.split("\nSettings:\n")[1].split("\n\n")[0]
        told = [line.strip().split(":")[0] for line in block.split("\n") if not line.startswith(" " * 5)]
        assert told == list(method.settings), "the docstring lists the settings in the order of the signature"


def test_the_catalogue_loads_neither_torch_nor_numpy():
    code = (
        "import sys, mergery.method as m; assert len(m.methods()) > 19; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
