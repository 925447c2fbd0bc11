"""Matching pursuit and transplants: what the paper and plain linear algebra say must come out."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery import api
from mergery.recipe.transplanting import transplant_recipe
from mergery.views.vocabulary.pursuit import pursue
from tests.conftest import Outcome
from tests.views.vocabulary.models import BIAS, EMBED, HEAD, words, write_model

Mergery = Callable[..., Outcome]


def made(indices: torch.Tensor, coefficients: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nk,nkd->nd", coefficients, atoms[indices].double())


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_a_sum_of_few_atoms_is_found_again_whatever_their_lengths(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = 10.0 ** torch.randint(-3, 4, (200, 1), generator=generator).double()
    atoms = lengths * draw(200, 64, seed=seed)
    chosen = torch.randperm(200, generator=generator)[:4]
    shares = (0.5 + torch.rand(4, generator=generator, dtype=torch.float64)) / lengths[chosen, 0]
    target = shares @ atoms[chosen]
    indices, coefficients = pursue(target[None], atoms, 16)
    found = {int(i): c for i, c in zip(indices[0], coefficients[0], strict=True) if c}
    assert torch.allclose(
        made(indices, coefficients, atoms)[0], target, rtol=1e-6, atol=1e-6 * target.abs().max().item()
    )
    if set(found) == set(chosen.tolist()):
        for place, index in enumerate(chosen.tolist()):
            assert float(found[index]) == pytest.approx(float(shares[place]), rel=1e-6)


def test_more_atoms_leave_less_and_as_many_as_columns_leave_nothing() -> None:
    atoms, targets = draw(300, 64), draw(20, 64, seed=1)
    left = []
    for k in (1, 8, 16, 32, 64):
        indices, coefficients = pursue(targets, atoms, k)
        left.append((made(indices, coefficients, atoms) - targets).norm(dim=1))
    assert all((later <= sooner * (1 + 1e-12)).all() for sooner, later in pairwise(left))
    assert left[-1].max() < 1e-6


def test_coefficients_are_those_of_least_squares() -> None:
    atoms, targets = draw(50, 32), draw(5, 32, seed=1)
    indices, coefficients = pursue(targets, atoms, 6)
    for target, chosen, own in zip(targets, indices, coefficients, strict=True):
        exact = torch.linalg.lstsq(atoms[chosen].T, target[:, None]).solution[:, 0]
        assert torch.allclose(own, exact, rtol=1e-10, atol=1e-12)


def test_one_target_by_hand() -> None:
    """Of (3, 4): the second direction agrees best; the rest, (3, 0), is the first's. Lengths do not count."""
    atoms = torch.tensor([[0.1, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    indices, coefficients = pursue(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64), atoms, 3)
    assert indices[0, :2].tolist() == [1, 0]
    assert coefficients.tolist() == [[2.0, pytest.approx(30.0), 0.0], [0.0, 0.0, 0.0]]


def test_batches_do_not_change_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, targets = draw(40, 16).float(), draw(30, 16, seed=1).float()
    whole = pursue(targets, atoms, 5)
    monkeypatch.setattr("mergery.views.vocabulary.pursuit.BATCH_BYTES", 20_000)
    parts = pursue(targets, atoms, 5)
    assert torch.equal(whole[0], parts[0])
    assert torch.allclose(whole[1], parts[1], rtol=1e-6)


NAMES = [f"w{index}" for index in range(60)]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """model knows w0..w39; the donor knows w20..w59, and its rows are the model's, turned in space."""
    rows = draw(60, 8).float()
    turn = torch.linalg.qr(draw(8, 8, seed=3)).Q.float()
    write_model(tmp_path / "model", words(*NAMES[:40]), rows[:40])
    write_model(tmp_path / "donor", words(*NAMES[20:]), rows[20:] @ turn)
    torch.save(rows, tmp_path / "rows.pt")
    return tmp_path


def rows_of(home: Path, fill: str, **more: object) -> dict[str, torch.Tensor]:
    result = api.merge(transplant_recipe(str(home / "model"), str(home / "donor"), fill=fill, **more))  # type: ignore[arg-type]
    assert isinstance(result, dict)
    return result


def test_a_turned_donor_gives_the_very_rows(pair: Path) -> None:
    """With as many atoms as columns, coefficients are exact, and the same in any turned space (the card's oracle)."""
    rows = torch.load(pair / "rows.pt")
    out = rows_of(pair, "omp", neighbours=8)
    assert torch.equal(out[EMBED][:20], rows[20:40])  # shared tokens are copied
    assert torch.allclose(out[EMBED][20:], rows[40:], atol=1e-4)
    assert torch.allclose(out[HEAD][20:], 10 * rows[40:], atol=1e-3)
    assert torch.equal(out["model.norm.weight"], torch.ones(2))


def test_fewer_neighbours_come_less_near(pair: Path) -> None:
    rows = torch.load(pair / "rows.pt")
    gaps = [(rows_of(pair, "omp", neighbours=k)[EMBED][20:] - rows[40:]).norm().item() for k in (1, 3, 8)]
    assert gaps[0] > gaps[1] > gaps[2]


def test_the_same_vocabulary_changes_nothing(pair: Path) -> None:
    result = api.merge(transplant_recipe(str(pair / "model"), str(pair / "model")))
    assert isinstance(result, dict)
    assert torch.equal(result[EMBED], torch.load(pair / "rows.pt")[:40])


def test_simpler_ways(pair: Path) -> None:
    rows = torch.load(pair / "rows.pt")
    shared = rows[20:40]
    assert torch.allclose(rows_of(pair, "mean")[EMBED][20:], shared.mean(dim=0).expand(20, 8), atol=1e-6)
    assert not rows_of(pair, "zero")[EMBED][20:].any()
    drawn, again, other = (rows_of(pair, "random", seed=seed)[EMBED][20:] for seed in (0, 0, 1))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)
    assert abs((drawn - shared.mean(dim=0)) / shared.std(dim=0, correction=0)).mean() == pytest.approx(0.798, abs=0.12)


def test_pieces_of_a_token(tmp_path: Path) -> None:
    """A word that the model lacks gets the mean of the rows of its pieces."""
    model = {"type": "WordPiece", "vocab": {"[U]": 0, "a": 1, "##b": 2, "##c": 3}, "unk_token": "[U]",
             "continuing_subword_prefix": "##", "max_input_chars_per_word": 9}  # fmt: skip
    own = {**words("x"), "pre_tokenizer": {"type": "BertPreTokenizer"}, "model": model}
    more = {**own, "model": {**model, "vocab": {"[U]": 0, "a": 1, "##b": 2, "##c": 3, "abc": 4, "acb": 5}}}
    write_model(tmp_path / "model", own, [[0, 0], [3, 3], [6, 0], [0, 9]])
    write_model(tmp_path / "donor", more, [[0, 0]] * 6)
    out = rows_of(tmp_path, "subword")
    assert out[EMBED][4:].tolist() == [[3, 4], [3, 4]]
    assert out[BIAS][4:].tolist() == [3, 3]


def test_the_command(pair: Path, mergery: Mergery) -> None:
    done = mergery("vocabulary", "transplant", pair / "model", pair / "out", "--from", pair / "donor", "-k", 8)
    assert done.code == 0, done.err
    assert (
        "no merged model has 20 tokens (such as 'w40', 'w41', 'w42'); the rows are made: matching pursuit" in done.err
    )
    assert json.loads((pair / "out" / "config.json").read_text())["vocab_size"] == 40
    assert (pair / "out" / "tokenizer.json").read_bytes() == (pair / "donor" / "tokenizer.json").read_bytes()
    assert "2506.06607" in (pair / "out" / "README.md").read_text()
    assert mergery("verify", pair / "out", "--sample", 9).code == 0
    again = mergery("vocabulary", "transplant", pair / "model", pair / "out", "--from", pair / "donor", "-k", 8)
    assert (again.code, "already there" in again.err) == (0, True)
    shown = mergery("vocabulary", "transplant", pair / "model", pair / "x", "--from", pair / "donor", "--dry-run")
    assert "rows by matching pursuit in donor" in shown.out
    assert not (pair / "x").exists()


def test_models_that_share_no_token(tmp_path: Path, mergery: Mergery) -> None:
    write_model(tmp_path / "model", words("a"), [[1, 2]])
    write_model(tmp_path / "donor", words("b"), [[1, 2]])
    done = mergery("vocabulary", "transplant", tmp_path / "model", tmp_path / "out", "--from", tmp_path / "donor")
    assert done.code == 2
    assert "'model' and 'donor' share no token" in done.err
    assert not (tmp_path / "out").exists()


def test_threads_do_not_change_a_byte(pair: Path, mergery: Mergery) -> None:
    for threads in (1, 3):
        mergery(
            "vocabulary",
            "transplant",
            pair / "model",
            pair / f"t{threads}",
            "--from",
            pair / "donor",
            "--threads",
            threads,
        )
    one, three = ((pair / f"t{threads}" / "model.safetensors").read_bytes() for threads in (1, 3))
    assert one == three
