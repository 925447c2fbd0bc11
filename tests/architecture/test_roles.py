"""Roles against the modules of transformers: what a linear layer, an embedding or a norm there is, is one here."""

from __future__ import annotations

import pytest
import torch

from mergery.architecture import PARTS, ROLES, read_architecture
from mergery.architecture.spelling import language_family
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.dtypes import F32
from mergery.errors import RecipeError
from mergery.planning.special_cases import _OFFSET_NORMS
from mergery.recipe.values import Target, parse_condition
from mergery.testing.families import FAMILIES, build

TRAPS = [family for family in FAMILIES if family.trap and family.auto]


def allowed(module: torch.nn.Module, name: str) -> set[str]:
    """The roles that a module's weight may have, by the kind of the module."""
    kind = type(module).__name__
    if name.endswith("bias"):
        return {"bias"}
    if isinstance(module, torch.nn.Embedding):
        return {"embed", "buffer", "attention"}  # attention: tables of relative positions
    if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        return {"conv"}
    if "Norm" in kind and not any(module.children()):
        return {"norm", "attention.norm"}
    if "Router" in kind or "Gate" in kind:
        return {"router", "buffer"}
    if isinstance(module, torch.nn.Linear) or kind == "Conv1D":
        return {"linear", "head", "router"}
    return set(ROLES)


@pytest.mark.parametrize("family", TRAPS, ids=lambda family: family.name)
def test_roles_agree_with_the_modules(family):
    model = build(family)
    infos = [TensorInfo(name, tuple(tensor.shape), F32) for name, tensor in model.state_dict().items()]
    architecture = read_architecture(infos, Config(model.config.to_dict()))
    modules = dict(model.named_modules())
    for name, parsed in architecture.names.items():
        module = modules[name.rpartition(".")[0]]
        assert set(parsed.roles) & allowed(module, name), f"{name} of {type(module).__name__}: {parsed.roles}"
        assert set(parsed.roles) <= set(ROLES)
        assert parsed.part in PARTS
        tower = any(word in name for word in ("vision", "visual", "image", "multi_modal"))
        assert (parsed.part != "language") == tower, name
    assert architecture.depth == 2 + (family.name == "Llama 3.2 Vision")


@pytest.mark.parametrize("family", [each for each in FAMILIES if each.auto], ids=lambda family: family.name)
def test_norms_that_begin_at_zero_are_those_stored_as_offsets(family):
    """An untrained norm changes nothing: its weight is one or, where it is an offset from one, zero."""
    model = build(family)
    norms = [
        module.weight
        for name, module in model.named_modules()
        if "RMSNorm" in type(module).__name__ and hasattr(module, "weight") and "vision" not in name
    ]
    zero = bool(norms) and all(not weight.any() for weight in norms)
    assert zero == (language_family(Config(model.config.to_dict())) in _OFFSET_NORMS)


def test_conditions_name_parts():
    tower = Target("vision_tower.layers.3.mlp.fc1.weight", None, ("mlp.up", "linear"), 1.0, part="vision", number=3)
    model = Target("model.layers.3.mlp.up_proj.weight", 3, ("mlp.up", "linear"), 1.0, number=3)
    assert parse_condition({"part": "vision"}).holds(tower)
    assert not parse_condition({"part": "vision"}).holds(model)
    assert parse_condition({"part": ["vision", "language"], "layers": 3}).holds(tower)
    assert parse_condition({"layers": 3}).holds(model)
    assert not parse_condition({"layers": 3}).holds(tower)  # the language model's layers, where no part is named
    assert parse_condition({"part": "vision", "role": "mlp"}).plain() == {"role": "mlp", "part": "vision"}
    with pytest.raises(RecipeError, match="unknown part 'visoin'") as error:
        parse_condition({"part": "visoin"})
    assert "'vision'" in error.value.hint
