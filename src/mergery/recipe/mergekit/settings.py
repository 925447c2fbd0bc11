"""The settings of a recipe that the parameters of a mergekit file amount to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mergery.errors import Where
from mergery.recipe.document import KeyPath
from mergery.recipe.mergekit.methods import REQUIRED, Parameter, Together
from mergery.recipe.mergekit.parameters import ALL, Chain, as_value, ends, join, map_scalars
from mergery.recipe.mergekit.statement import Input, MergeStatement, OutputSlice
from mergery.recipe.values import ByModel, Constant, Value


@dataclass(frozen=True)
class Settings:
    """Translates the parameters of one document.

    What a slice says becomes settings of that slice. What the module and the file say, and what mergekit takes
    for granted, becomes settings of the merge, to which slices fall back.
    """

    statement: MergeStatement
    name: Callable[[Input], str]
    fail: Callable[..., None]
    note: Callable[[str], None]

    def of_one(self, piece: OutputSlice, merged: tuple[Input, ...]) -> dict[str, Value]:
        """All settings of a merge that is not cut into slices."""
        self.check(piece, merged)
        return self.sort(self.fixed() | self.read(piece, merged, alone=True, common=True))

    def of_slice(self, piece: OutputSlice, merged: tuple[Input, ...]) -> dict[str, Value]:
        """What a slice and its sources say themselves."""
        self.check(piece, merged)
        for parameter in self.statement.rule.parameters:
            setting = self.statement.method.settings.get(parameter.setting or "")
            if parameter.each and setting and not setting.per_model:
                self.warn(parameter, self.chains(parameter, piece, merged, common=True))
        return self.sort(self.read(piece, merged, alone=False, common=False))

    def warn(self, parameter: Parameter, chains: Mapping[Input | None, Chain]) -> None:
        """A setting that is not by model knows the names of the output only; layers may have other numbers there."""
        names = [condition.name or "" for chain in chains.values() for condition, _ in chain]
        if any(re.search(r"\.\d|\d\.", name) for name in names):
            self.note(
                f"filters of {parameter.name} with the number of a layer match the output's; mergekit's the model's"
            )

    def of_stack(self) -> dict[str, Value]:
        """What slices fall back to."""
        return self.sort(self.fixed() | self.read(None, (), alone=True, common=True))

    def places(self) -> dict[str, Where]:
        """Where the parameter that makes a setting first stands."""
        together, marks = self.statement.rule.together, self.statement.marks
        made = {parameter.setting: parameter.name for parameter in self.statement.rule.parameters}
        if together:
            made[together.setting] = next((name for name in together.names if name in marks), together.names[0])
        return {setting: marks[name] for setting, name in made.items() if setting and name in marks}

    def sort(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        return {name: settings[name] for name in self.statement.method.settings if name in settings}

    def fixed(self) -> dict[str, Value]:
        return {name: Constant(value) for name, value in self.statement.rule.settings.items()}

    def read(
        self, piece: OutputSlice | None, merged: tuple[Input, ...], *, alone: bool, common: bool
    ) -> dict[str, Value]:
        """The settings that sources and slices say; with `common` also what stands below them. With `alone`, settings
        that two parameters make are stated even where neither of them is given."""
        result: dict[str, Value] = {}
        for parameter in self.statement.rule.parameters:
            chains = self.chains(parameter, piece, merged, common=common)
            if parameter.setting and any(chains.values()):
                result[parameter.setting] = self.value(parameter.setting, chains)
        together = self.statement.rule.together
        if together:
            first, second = (
                parameter for parameter in self.statement.rule.parameters if parameter.name in together.names
            )
            given = [self.chains(parameter, piece, merged, common=False) for parameter in (first, second)]
            if alone or any(chain for chains in given for chain in chains.values()):
                a, b = (self.chains(parameter, piece, merged, common=True) for parameter in (first, second))
                made = {pair: self.combine(together, *pair) for pair in {(a[item], b[item]): None for item in a}}
                result[together.setting] = self.value(together.setting, {item: made[a[item], b[item]] for item in a})
        return result

    def chains(
        self, parameter: Parameter, piece: OutputSlice | None, merged: tuple[Input, ...], *, common: bool
    ) -> dict[Input | None, Chain]:
        """The chain of each model; of none in particular where the models do not matter."""
        below = join(piece.level.get(parameter.name) if piece else (), self.common(parameter) if common else ())
        if not parameter.each or not merged:
            return dict.fromkeys(merged or (None,), below)
        return {item: join(item.level.get(parameter.name), below) for item in merged}

    def common(self, parameter: Parameter) -> Chain:
        """What the module and the file say, and the default."""
        chain = self.statement.common.get(parameter.name, ())
        if parameter.default is REQUIRED or parameter.default is None:
            return chain
        return join(chain, ((ALL, Constant(parameter.convert(parameter.default))),))

    def value(self, setting: str, chains: Mapping[Input | None, Chain]) -> Value:
        """One value where all models have the same, else one for each that has any."""
        first = next(iter(chains.values()))
        if all(chain == first for chain in chains.values()):
            return as_value(first)
        assert self.statement.method.settings[setting].per_model
        return ByModel(tuple((self.name(item), as_value(chain)) for item, chain in chains.items() if item and chain))

    def combine(self, together: Together, first: Chain, second: Chain) -> Chain:
        """The cases of the setting that two parameters make. Filters and lists may stand in one of them."""
        a, b = first[0][1], second[0][1]
        if len(first) == 1 and isinstance(a, Constant):
            fixed = a.value
            return map_scalars(second, lambda scalar: together.make(fixed, scalar))
        if len(second) == 1 and isinstance(b, Constant):
            fixed = b.value
            return map_scalars(first, lambda scalar: together.make(scalar, fixed))
        what = f"filters and lists in both {' and '.join(together.names)} cannot be translated"
        self.fail(what, (), hint="keep one of them constant")
        return first

    def check(self, piece: OutputSlice, merged: tuple[Input, ...]) -> None:
        """A parameter without a default must have a value."""
        for parameter in self.statement.rule.parameters:
            if parameter.default is not REQUIRED:
                continue
            chains = self.chains(parameter, piece, merged, common=True)
            for item in merged if parameter.each else merged[:1]:
                if chains[item] and not ends(chains[item]):
                    self.note(
                        f"{parameter.name} has no value for tensors that none of its filters match: mergekit stops "
                        "there, and a recipe takes the method's default where it has one"
                    )
                elif not chains[item]:
                    self.missing(parameter, piece, item)

    def missing(self, parameter: Parameter, piece: OutputSlice, item: Input) -> None:
        name, word = parameter.name, self.statement.word
        path: KeyPath = item.path if parameter.each else piece.path
        whose = f" for {item.model.path!r}" if parameter.each else ""
        why = "it has no default"
        if path == ("base_model",):
            why = f"{word} merges base_model like any other model, so it needs one too"
        self.fail(f"{word} needs {name!r}{whose}", path, why=why, hint=f"parameters: {{{name}: 0.5}}")
