"""Fuzzing that follows coverage: `pip install 'mergery[fuzz]'`, then `python -m tests.fuzz.coverage -max_total_time=60`.

All options are libFuzzer's. The first byte of an input chooses its kind, the rest is the file that is damaged. It begins with
the corpus and with inputs of the generator. An input that breaks an invariant is written to `found`, as a case for the
corpus, and stops it with exit code 77.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

from tests.fuzz.inputs import Case, make
from tests.fuzz.weights import SHARD, index_files

os.environ["HF_HUB_OFFLINE"] = "1"

HERE = Path(__file__).parent
SEEDS = 40  # inputs of the generator for each kind
FILES = {  # what is damaged of each kind
    "safetensors": "x.safetensors",
    "torch": "x.bin",
    "config": "config.json",
    "recipe": "recipe.yaml",
    "mergekit": "recipe.yaml",
    "index": "model.safetensors.index.json",
    "tokenizer": "a/tokenizer.json",
}
LOADED = ("api", "explain", "mergekit", "mergekit.reader", "mergekit.translate", "planning", "reading", "run", "sinks")


def main() -> None:
    """Run until an input fails, or as libFuzzer's options say."""
    import atheris

    with atheris.instrument_imports(include=["mergery"]):
        from tests.fuzz import feed, feeds

        for name in LOADED:  # what is only loaded where it is wanted would not be followed
            __import__(f"mergery.{name}")
    kinds = [kind for kind in FILES if kind != "tokenizer" or feeds.READERS]
    around = surroundings()
    with tempfile.TemporaryDirectory() as text:
        room = Path(text)
        (room / "seeds").mkdir()
        (room / "room").mkdir()
        for number, case in enumerate(seeds(kinds)):
            (room / f"seeds/{number}").write_bytes(bytes([kinds.index(case.kind)]) + case.files[FILES[case.kind]])
        feeder = feed.Feeder(room / "room", seconds=5.0)  # what is followed is slow

        def one(data: bytes) -> None:
            if not data:
                return
            kind = kinds[data[0] % len(kinds)]
            case = Case(kind, {**around.get(kind, {}), FILES[kind]: data[1:]})
            outcome = feeder.feed(case)
            if outcome.faults:
                (HERE / "found").mkdir(exist_ok=True)
                (HERE / f"found/{kind}-{abs(hash(data))}.json").write_text(case.dump())
                raise AssertionError("; ".join(outcome.faults))

        atheris.Setup([*sys.argv, str(room / "seeds")], one)
        atheris.Fuzz()


def seeds(kinds: list[str]) -> list[Case]:
    """What to begin with: inputs that failed once, and some of the generator's."""
    cases = [Case.load(path.read_text()) for path in sorted((HERE / "corpus").glob("*.json"))]
    cases += [make(seed, kind) for kind in kinds for seed in range(SEEDS)]
    return [case for case in cases if case.kind in kinds and FILES[case.kind] in case.files]


def surroundings() -> dict[str, dict[str, bytes]]:
    """The sound files beside the one that is damaged, by kind."""
    found: dict[str, dict[str, bytes]] = {}
    for seed in range(100):
        files = index_files(random.Random(seed))
        if sum(name.endswith(SHARD[-14:]) for name in files) == 2:
            found["index"] = {name: content for name, content in files.items() if name.endswith(".safetensors")}
    found["tokenizer"] = {k: v for k, v in make(0, "tokenizer").files.items() if k != FILES["tokenizer"]}
    return found


if __name__ == "__main__":
    main()
