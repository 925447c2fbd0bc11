"""Every verdict on a planted case of it, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import mergery as library
from mergery.alignment.diagnosis.signatures import looked_for, related, tokens
from tests.alignment.rebasing.conftest import (
    GROUPS,
    HEAD,
    HEADS,
    INNER,
    WIDTH,
    llama,
    logits,
    orthogonal,
    rotated,
    tuned,
)

State = dict[str, Tensor]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    def write(name: str, model: Any) -> str:
        model.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return write


def permuted(
    state: Mapping[str, Tensor], *, neurons: bool = False, heads: bool = False, channels: bool = False
) -> State:
    """The same function with parts in another order; channels with other signs as well."""
    torch.manual_seed(5)
    order = torch.randperm(INNER) if neurons else torch.arange(INNER)
    groups = torch.tensor([1, 0]) if heads else torch.arange(GROUPS)
    queries = torch.cat([torch.arange(HEADS // GROUPS) + group * (HEADS // GROUPS) for group in groups])
    rows, keys = ((each[:, None] * HEAD + torch.arange(HEAD)).reshape(-1) for each in (queries, groups))
    place = torch.randperm(WIDTH) if channels else torch.arange(WIDTH)
    signs = torch.randint(0, 2, (WIDTH,)) * 2.0 - 1.0 if channels else torch.ones(WIDTH)
    found = {}
    for name, value in state.items():
        if value.dim() == 1:
            found[name] = value[place]
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            own = rows if "o_proj" in name else order
            found[name] = (signs[:, None] * value)[place][:, own]
        else:
            kinds = {"q_proj": rows, "k_proj": keys, "v_proj": keys, "gate_proj": order, "up_proj": order}
            own = next((each for kind, each in kinds.items() if kind in name), torch.arange(len(value)))
            found[name] = (value * signs)[:, place][own]
    return found


def verdict(mine: str, theirs: str) -> tuple[str, bool]:
    found = library.diagnose(mine, theirs)
    return found.verdict, found.exact


def test_the_same_and_a_fine_tune(save: Any) -> None:
    state = llama().state_dict()
    base = save("base", llama(state))
    assert verdict(base, save("copy", llama(state))) == ("same", True)
    found = library.diagnose(base, save("own", llama(tuned(state, 1))))
    assert found.verdict == "lineage"
    assert {door.name: door.state for door in found.doors}["merge"] == "open"
    assert verdict(base, save("half", llama(state).to(torch.bfloat16)))[0] == "lineage"


@pytest.mark.parametrize("what", ["neurons", "heads", "channels", "all"])
def test_another_order(save: Any, tmp_path: Path, what: str) -> None:
    state = llama().state_dict()
    parts = dict.fromkeys(("neurons", "heads", "channels") if what == "all" else (what,), True)
    base, other = save("base", llama(state)), save("other", llama(permuted(state, **parts)))
    torch.testing.assert_close(logits(tmp_path / "other"), logits(tmp_path / "base"), atol=1e-4, rtol=1e-4)
    assert verdict(base, other) == ("permuted", True)
    further = save("further", llama(permuted(tuned(state, 1), **parts)))
    assert verdict(base, further) == ("permuted", False)


def test_in_16_bits(save: Any) -> None:
    """Rounding is not taken for training, nor rows that are as long by chance for an order."""
    state = llama().state_dict()
    base = save("base", llama(state).to(torch.bfloat16))
    other = llama(permuted(state, neurons=True, heads=True, channels=True)).to(torch.bfloat16)
    assert verdict(base, save("other", other)) == ("permuted", True)
    assert verdict(base, save("seed", llama(seed=1).to(torch.bfloat16))) == ("seed", False)


def test_turned_coordinates(save: Any) -> None:
    state = llama().state_dict()
    base = save("base", llama(state))
    assert verdict(base, save("turned", llama(rotated(state)))) == ("transformed", True)
    further = rotated(tuned(state, 1, norms=False))
    assert verdict(base, save("further", llama(further))) == ("transformed", False)


def test_turned_values_alone(save: Any) -> None:
    state = dict(llama().state_dict())
    for layer in range(2):
        names = [f"model.layers.{layer}.self_attn.{each}_proj.weight" for each in "vo"]
        gauge = orthogonal(HEAD, 9).float()
        state[names[0]] = torch.block_diag(*[gauge.T] * GROUPS) @ state[names[0]]
        state[names[1]] = state[names[1]] @ torch.block_diag(*[gauge] * HEADS)
    found = library.diagnose(save("base", llama()), save("turned", llama(state)))
    assert found.verdict == "transformed"


def test_other_beginnings_and_architectures(save: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    base = save("base", llama())
    found = library.diagnose(base, save("seed", llama(seed=1)))
    assert found.verdict == "seed"
    assert {door.name: door.state for door in found.doors} == {
        "merge": "closed", "align": "perhaps", "rebase": "perhaps", "transport": "open", "distil": "open",
    }  # fmt: skip
    wide = library.diagnose(base, save("wide", llama(hidden_size=64)))
    assert wide.verdict == "architecture"
    assert "widths: 32 and 64" in wide.why
    other = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1))
    far = library.diagnose(base, save("gpt2", other))
    assert far.verdict == "architecture"
    assert "families: llama and gpt2" in far.why
    assert {door.name: door.state for door in far.doors}["rebase"] == "closed"


def test_experts_in_another_order(save: Any) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = MixtralConfig(
        vocab_size=128, num_key_value_heads=2, num_local_experts=4, initializer_range=0.2, bos_token_id=0, eos_token_id=1,
        **sizes,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    base = save("base", model)
    order = torch.tensor([2, 0, 3, 1])
    state = model.state_dict()
    for name, value in state.items():
        if "mlp.experts" in name or name.endswith("mlp.gate.weight"):
            value.copy_(value[order].clone())
    found = library.diagnose(base, save("other", model))
    assert found.verdict == "permuted"
    router = next(each for each in found.matrices if each.role == "router")
    assert (router.plain.found, router.plain.moved) == (1.0, 1.0)


def test_from_the_command_line(mergery: Any, save: Any, tmp_path: Path) -> None:
    state = llama().state_dict()
    base, other = save("base", llama(state)), save("other", llama(permuted(state, neurons=True)))
    done = mergery("diagnose", base, other)
    assert done.code == 0, done.err
    assert "in another order" in done.out
    assert f"mergery align {base} OUT --to {other}" in done.out.replace("\n", " ").replace("  ", " ")
    told = json.loads(mergery("diagnose", base, other, "--json").out)
    assert told["verdict"] == "permuted"
    assert told["exact"] is True
    assert {door["name"] for door in told["doors"]} == {"merge", "align", "rebase", "transport", "distil"}
    missing = mergery("diagnose", base, f"{base}-none")
    assert missing.code == 2
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"base_model.model.lm_head.lora_A.weight": torch.ones(1, 8)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}')
    alone = mergery("diagnose", base, adapter)
    assert alone.code == 2 and "this is an adapter, not a model" in alone.err


@pytest.mark.parametrize("how", ["permuted", "transformed"])
def test_the_door_leads_where_it_says(
    mergery: Any, save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What is said to be aligned by a command is of one lineage once that has been run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    state = llama().state_dict()
    learned = tuned(state, 1, norms=False)
    other = permuted(learned, neurons=True, heads=True, channels=True) if how == "permuted" else rotated(learned)
    found = library.diagnose(save("other", llama(other)), save("base", llama(state)))
    assert found.verdict == how
    door = next(door for door in found.doors if door.name == "align")
    assert door.state == "open"
    done = mergery(*door.command.replace("OUT", str(tmp_path / "out")).split()[1:])
    assert done.code == 0, done.err
    assert library.diagnose(str(tmp_path / "out"), str(tmp_path / "base")).verdict == "lineage"


def test_rows_are_found_where_they_stand() -> None:
    torch.manual_seed(0)
    a = torch.randn(64, 200)
    order = torch.arange(64).roll(1)
    assert looked_for(a, -a[order]) == (1.0, 1.0, 1.0)
    assert looked_for(a, a) == (1.0, 0.0, 0.0)
    assert looked_for(a, torch.randn(64, 200))[0] == 0.0
    known = related(a @ orthogonal(200, 1).float(), a)
    assert known.spectrum is not None
    assert known.spectrum < 1e-5
    assert known.lengths < 1e-4
    assert known.entries > 1e-3
    assert related(torch.randn(64, 200), a).lengths > 0.02  # as long on average, and no more than that


def test_a_turn_is_judged_on_rows_that_it_was_not_found_on() -> None:
    torch.manual_seed(0)
    rows, turn = torch.randn(200, 16), orthogonal(16, 2).float()
    found, fitted = tokens(rows, rows @ turn, search=True)
    assert fitted is not None
    assert found.turned > 0.999
    torch.testing.assert_close(fitted.float(), turn, atol=1e-4, rtol=1e-4)
    assert tokens(rows, torch.randn(200, 16), search=True)[0].turned < 0.4
