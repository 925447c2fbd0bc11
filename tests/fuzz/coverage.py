"""Fuzzing that follows coverage: `pip install atheris`, then `python -m tests.fuzz.coverage -max_total_time=60`.

All options are libFuzzer's. The first byte of an input chooses its kind, the rest is the file, so that what it finds in the
reading of single files can be saved as a corpus case. An input that breaks an invariant stops it with a traceback.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

FILES = {
    "safetensors": "x.safetensors",
    "torch": "x.bin",
    "config": "config.json",
    "recipe": "recipe.yaml",
    "mergekit": "recipe.yaml",
    "index": "model.safetensors.index.json",
}


def main() -> None:
    """Run until an input fails, or as libFuzzer's options say."""
    import atheris

    with atheris.instrument_imports(include=["weft"]):
        from tests.fuzz.feed import Feeder
    from tests.fuzz.inputs import Case

    kinds = list(FILES)
    with tempfile.TemporaryDirectory() as room:
        feeder = Feeder(Path(room))

        def one(data: bytes) -> None:
            if data:
                kind = kinds[data[0] % len(kinds)]
                outcome = feeder.feed(Case(kind, {FILES[kind]: data[1:]}))
                if outcome.faults:
                    raise AssertionError("; ".join(outcome.faults))

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
