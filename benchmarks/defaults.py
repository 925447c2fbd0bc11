"""Writes what an absent key of a config means: the defaults of transformers for the keys that are compared.

    python -m benchmarks.defaults

They stand in src/mergery/architecture/defaults.json, a line for each model type.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from mergery.architecture import facts

TABLE = Path(facts.__file__).with_name("defaults.json")


def defaults() -> dict[str, dict[str, Any]]:
    """By model type, what its config class says of the keys that are compared; for language models and vision models."""
    from transformers import CONFIG_MAPPING

    found = {}
    for kind in sorted(CONFIG_MAPPING.keys()):
        try:
            config: Any = CONFIG_MAPPING[kind]
        except Exception:  # its code needs a library that is not here
            continue
        own = {key: value for key in facts.KEYS if _plain(value := getattr(config, key, None))}
        if hasattr(config, "rope_parameters"):
            theta = config.default_theta
            own["rope_theta"] = theta.get("global", next(iter(theta.values()))) if isinstance(theta, dict) else theta
            if isinstance(theta, dict) and "local" in theta:
                own["rope_local_base_freq"] = theta["local"]
        if own:
            found[kind] = own
    return found


def text() -> str:
    import transformers

    lines = [f'  "": {json.dumps({"transformers": transformers.__version__})}']
    lines += [f"  {json.dumps(kind)}: {json.dumps(own, sort_keys=True)}" for kind, own in defaults().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    TABLE.write_text(text())
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
