"""GradFix: by hand, against gradients of the whole model, and what it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mergery.alignment.rebasing.gradfix import masked
from tests.alignment.rebasing.conftest import llama, read, tuned


def test_by_hand() -> None:
    change, gradient = np.array([1.0, -2.0, 3.0, 0.0, 4.0]), np.array([5.0, 1.0, -1.0, 1.0, 0.0])
    assert masked(change, gradient, "drop").tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert masked(change, gradient, "turn").tolist() == [1.0, 2.0, -3.0, 0.0, 0.0]


def gradients(folder: Any, rows: list[list[int]], *, signs: bool) -> dict[str, torch.Tensor]:
    """Of the log-likelihood, summed over texts, by one backward pass each through the whole model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found: dict[str, torch.Tensor] = {}
    for row in rows:
        model.zero_grad()
        tokens = torch.tensor([row])
        logs = torch.log_softmax(model(tokens).logits[0, :-1], -1)
        logs[range(len(row) - 1), row[1:]].sum().backward()
        for name, parameter in model.named_parameters():
            gradient = torch.as_tensor(parameter.grad).double()
            found[name] = found.get(name, 0.0) + (gradient.sign() if signs else gradient)
    return found


def test_it_keeps_what_goes_down_the_new_base_s_loss(
    mergery: Any, save: Any, texts: Any, tokenizer: Any, tmp_path: Any
) -> None:
    import json

    state = llama().state_dict()
    newer = tuned(state, 2)
    old, own, new = save("old", state), save("own", tuned(state, 1)), save("new", newer)
    rows = [tokenizer(json.loads(line)["text"])["input_ids"] for line in texts.read_text().splitlines()]
    for vote in ("mean", "majority"):
        out = tmp_path / vote
        options = ("--way", "gradfix", "--data", texts, "--vote", vote, "--scale", "0.5")
        done = mergery("rebase", own, out, "--from", old, "--to", new, *options)
        assert done.code == 0, done.err
        known = gradients(new, rows, signs=vote == "majority")
        a, b, x, made = read(old), read(new), read(own), read(out)
        for name, gradient in known.items():
            change = x[name] - a[name]
            sure = gradient.abs() > 1e-4 * gradient.abs().max()
            wanted = b[name] + 0.5 * torch.where(change.sign() == gradient.sign(), change, 0.0)
            assert "embed" in name or float(sure.double().mean()) > 0.7  # votes of an even number may tie
            torch.testing.assert_close(made[name][sure], wanted[sure], atol=1e-5, rtol=1e-5)


def test_without_data_nothing_is_done(mergery: Any, save: Any, tmp_path: Any) -> None:
    state = llama().state_dict()
    old, own = save("old", state), save("own", tuned(state, 1))
    done = mergery("rebase", own, tmp_path / "out", "--from", old, "--to", old, "--way", "gradfix")
    assert done.code == 2
    assert "GradFix needs data" in done.err
    assert "--data texts.jsonl" in done.err
    assert not (tmp_path / "out.rebase").exists()


def test_gradients_of_drawn_labels_are_refused() -> None:
    import mergery

    with pytest.raises(mergery.MergeryError, match="gradient is of the data's own labels"):
        mergery.CalibrationOptions(("gradient",))
