"""`python -m tests.golden`: write the golden results anew, after a deliberate change."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.golden import measure
from tests.golden.mistakes import MISTAKES
from tests.golden.models import make
from tests.golden.recipes import CLOSE, EXACT, PACKED, PLANS


def main() -> None:
    """Make everything, and write the JSON files."""
    with tempfile.TemporaryDirectory() as place:
        models, out = make(Path(place) / "models"), Path(place) / "out"
        found = {
            "exact": {name: measure.exact(case, models, out / name) for name, case in EXACT.items()},
            "packed": {name: measure.packed(case, models, out / f"{name}, packed") for name, case in PACKED.items()},
            "close": {name: measure.close(case, models, out / name) for name, case in CLOSE.items()},
            "digests": {name: measure.digest(case, models) for name, case in PLANS.items()},
            "shown": {name: measure.shown(case, models) for name, case in PLANS.items()},
            "keys": measure.keys(),
            "messages": {name: measure.message(mistake) for name, mistake in MISTAKES.items()},
        }
    for name, results in found.items():
        (measure.HERE / f"{name}.json").write_text(measure.readable(results) + "\n", encoding="utf-8")
        print(f"{name}.json: {len(results)} results")


main()
