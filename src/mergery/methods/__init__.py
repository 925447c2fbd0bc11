"""Merging methods, one readable file each.

`mergery.methods.ties` is the method itself, to be called on plain tensors: `ties([math, code], base=base, density=0.2)`.
`mergery.method.methods()` lists them all.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from mergery.errors import did_you_mean
    from mergery.method import methods

    known = {} if name.startswith("_") else methods()  # Python asks for a module's name too, before it looks for a file
    if name not in known:
        hint = did_you_mean(name, known) if known else ""
        raise AttributeError(f"there is no merging method {name!r}; {hint}".rstrip("; "))
    return known[name]


def __dir__() -> list[str]:
    from mergery.method import methods

    return list(methods())
