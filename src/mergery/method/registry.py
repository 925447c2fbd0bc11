"""All merging methods by name: Mergery's own, and those that other packages add."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from mergery.errors import RecipeError
from mergery.method.declaring import Method

GROUP = "mergery.methods"
"""The package of Mergery's own methods, one file each, and the group of entry points of others', which are `Method`s."""

_added: dict[str, Method] = {}  # in this process, by `register`


def register(new: Method) -> Method:
    """Add a method to those of this process, under its name; again, to put another in its place.

    Raises RecipeError where the name is that of a method of Mergery's or of an installed package: a recipe would mean two
    things.
    """
    if new.name in _found():
        raise RecipeError(f"there is a method {new.name!r} already", hint="give the function another name")
    _added[new.name] = new
    return new


def methods() -> Mapping[str, Method]:
    """All methods by name. Raises RecipeError where a package offers what is no method, or is called like another."""
    return dict(sorted({**_found(), **_added}.items()))


@cache
def _found() -> Mapping[str, Method]:
    """Mergery's own methods and those of installed packages, looked for once."""
    package = importlib.import_module(GROUP)
    found: dict[str, Method] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        for value in vars(importlib.import_module(f"{GROUP}.{module}")).values():
            if isinstance(value, Method):
                found[value.name] = value
                setattr(package, value.name, value)  # rather than the module of that name
    for entry in entry_points(group=GROUP):
        value = entry.load()
        if not isinstance(value, Method):
            hint = "that package has to name a function under @mergery.method.method"
            raise RecipeError(f"{entry.value}, which a package offers as {entry.name!r}, is no method", hint=hint)
        if value.name in found:
            hint = "uninstall that package, or ask its authors for another name"
            raise RecipeError(f"{entry.value}, of another package, is called {value.name!r} like another", hint=hint)
        found[value.name] = value
    return found


OTHER_NAMES = {
    "linear": (
        "average",
        "averaging",
        "avg",
        "mean",
        "weightedaverage",
        "weightaverage",
        "modelsoup",
        "soup",
        "uniformsoup",
        "lerp",
    ),
    "task_arithmetic": ("taskvector", "taskvectors", "ta"),
    "slerp": ("spherical", "sphericallinear", "sphericallinearinterpolation"),
    "karcher": ("karchermean", "frechetmean"),
    "geometric_median": ("median",),
    "passthrough": ("frankenmerge", "copy"),
    "run_average": ("swa", "lawa", "checkpointaverage"),
    "consensus": ("consensusta", "consensustaskarithmetic"),
    "tall_mask": ("tallmasks", "tall"),
    "tsv_merge": ("tsvm", "tsv", "tasksingularvectors"),
    "iso_c": ("iso", "isotropic"),
    "arcee_fusion": ("arcee",),
}
"""What else methods are called, without capitals and signs: any of these finds the method."""


def find(name: str) -> Method:
    """The method called `name`, in any case, with any signs between its words, or by another of its names.

    Raises RecipeError with the nearest name.
    """
    known = methods()
    if name in known:
        return known[name]
    plain = _plain(name)
    for own in known:
        if plain in plain_names(own):
            return known[own]
    near = difflib.get_close_matches(plain, map(_plain, known), n=1, cutoff=0.6)
    hint = next((f"did you mean {own!r}?" for own in known if near == [_plain(own)]), LIST)
    raise RecipeError(f"unknown method {name!r}", hint=hint)


def plain_names(name: str) -> tuple[str, ...]:
    """All that finds the method called `name`, without capitals and signs."""
    own = _plain(name)
    return own, f"{own}merging", f"{own}merge", *OTHER_NAMES.get(name, ())


LIST = "`mergery methods` lists them; linear, slerp, task_arithmetic and ties are the usual ones"


def _plain(name: str) -> str:
    """A name without capitals and signs."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
