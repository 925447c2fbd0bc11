"""How a method is called from Python, told as Python tells it: a signature with types, and a docstring."""

from __future__ import annotations

import inspect

from mergery.method.declaration import Declaration
from mergery.method.setting import Setting

CALLED = """\
Called from Python it merges plain tensors, or numpy arrays, of one shape: the models in a list, the base, and the settings
above, of which one per model may be a list. Whole models: mergery.merge(models=..., method={name!r}).
Raises RecipeError for what does not fit, DataError for NaN and infinity.
"""


class Written(str):
    """An annotation that is shown as it is written."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def signature_of(method: Declaration) -> inspect.Signature:
    """The signature of a call, with the types of the settings."""
    either, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    base = inspect.Parameter.empty if method.base == "required" else None
    optional = "" if method.base == "required" else " | None"
    settings = method.settings.values()
    return inspect.Signature(
        [
            inspect.Parameter("models", either, annotation=Written("Sequence[Tensor]")),
            inspect.Parameter("base", either, default=base, annotation=Written(f"Tensor{optional}")),
            inspect.Parameter("seed", named, default=0, annotation=Written("int")),
            *(inspect.Parameter(each.name, named, default=each.default, annotation=type_of(each)) for each in settings),
        ],
        return_annotation=Written("Tensor"),
    )


def type_of(setting: Setting) -> Written:
    """A setting's type as an annotation, such as `float | Sequence[float]`."""
    words = [f"Literal[{', '.join(map(repr, setting.choices))}]"] if setting.choices else []
    numbers = {"choice": [], "task": ["int"], "bool": ["bool"], "int": ["int"]}.get(setting.kind, ["float"])
    one = " | ".join([*numbers, *words])
    several = f" | Sequence[{one}]" if setting.per_model else ""
    return Written(one + several + (" | None" if setting.optional else ""))


def manual(method: Declaration) -> str:
    """What `help(method)` says: how it is called, what it computes, its settings."""
    parameters = [str(each) for each in signature_of(method).parameters.values()]
    indent = "\n" + " " * (len(method.name) + 1)
    call = f"{method.name}({', '.join(parameters[:2])}, *, {f',{indent}'.join(parameters[2:])}) -> Tensor"
    doc = inspect.getdoc(method.function) or ""
    return f"{call}\n\n{doc}\n\n{CALLED.format(name=method.name)}"
