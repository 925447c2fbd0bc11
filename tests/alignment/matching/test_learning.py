"""Learnt transforms: their gradient is autograd's, what comes out is legal, what is planted is found, nothing gets worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mergery as package
from mergery.alignment.matching.learning.blending import Held
from mergery.alignment.matching.learning.descent import LearnedMatching
from mergery.alignment.matching.learning.latents import LatentMatrices, LatentWeights
from mergery.alignment.matching.pairs import Models, Pair
from mergery.architecture.spaces import Attention, Axis, Piece, Space, Spaces
from mergery.errors import DataError, MergeryError
from mergery.recipe.aligning import KINDS
from mergery.testing.families.making import fine_tune, load, logits, make
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import Heads, Transform, Units, transformed, why_illegal
from tests.alignment.matching.test_activations import BY_NAME, texts, tokenized
from tests.views.test_transforms import opened, values

CHAIN = Spaces(
    (
        Piece("0.weight", None, "linear", None, "", (Axis("hidden.0"), None)),
        Piece("1.weight", None, "linear", None, "", (None, Axis("hidden.0", reads=True))),
    ),
    {"hidden.0": Space(3)},
    {},
    {},
    "layer",
)


def chain(order: list[int]) -> Held:
    """A network of three neurons, and the same with its neurons in another order."""
    first = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    second = np.array([[1.0, 2.0, 3.0]], np.float32)
    mine, theirs = (first, second), (first[np.argsort(order)], second[:, np.argsort(order)])
    return Held(CHAIN, [Pair(*each) for each in zip(CHAIN.pieces, mine, theirs, strict=True)])


def still(size: int) -> Transform:
    return Transform({"hidden.0": Units(np.arange(size))})


def to_reference(held: Held, transform: Transform) -> list[Pair]:
    """The slopes of the squared distance between the reference and the model in its new coordinates."""
    moved = held.between(transform, 1.0)
    gradient = {pair.piece.tensor: 2.0 * (moved[pair.piece.tensor] - pair.one) for pair in held.pairs}
    return held.slopes(gradient, transform, 1.0)


def test_the_middle_and_its_slopes_by_hand():
    """Half the way to a swapped copy; and a gradient is handed on with the share that the model has in the middle."""
    held = chain([1, 0, 2])
    middle = held.between(still(3), 0.5)
    assert middle["0.weight"].tolist() == [[1.5, 1.0], [1.5, 1.0], [1.0, 1.0]]
    assert middle["1.weight"].tolist() == [[1.5, 1.5, 3.0]]
    back = Transform({"hidden.0": Units(np.array([1, 0, 2]))})
    assert held.between(back, 0.5)["0.weight"].tolist() == held.pairs[0].one.tolist()
    slopes = held.slopes({"0.weight": np.ones(6, np.float32), "1.weight": np.zeros(3, np.float32)}, still(3), 0.25)
    assert slopes[0].one.tolist() == [[0.25, 0.25]] * 3


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Phi 3", "Qwen 3 MoE"])
def test_the_end_of_the_way_is_the_model_as_it_is_written(name, tmp_path):
    """Also where tensors are fused, stored the other way round, or experts change places."""
    view, spaces = opened(make(BY_NAME[name], tmp_path / "model"))
    transform = random_transform(spaces, 1)
    found = Held.of(Models(view, view)).between(transform, 1.0)
    for each, node in transformed(view, transform, spaces).nodes.items():
        assert np.abs(found[each].reshape(-1) - values(node)).max() < 1e-5, each


@pytest.mark.parametrize("kind", [LatentMatrices, LatentWeights])
def test_a_planted_order_is_found_from_another(kind):
    held = chain([2, 0, 1])
    latents = kind(held, still(3), KINDS)
    for _ in range(100):
        latents.move(to_reference(held, latents.transform), 0.1)
    assert latents.transform.units["hidden.0"].order.tolist() == [2, 0, 1]


def test_a_planted_rotation_is_found_from_none():
    draw = np.random.default_rng(0)
    piece = Piece("embed", None, "embed", None, "", (None, Axis("residual")))
    spaces = Spaces((piece,), {"residual": Space(4, True)}, {}, {}, "rms", before={"a": "b"})
    turn = np.linalg.qr(draw.normal(size=(4, 4)))[0]
    if np.linalg.det(turn) < 0:
        turn[0] *= -1.0  # a reflection is no small way from where it begins
    one = draw.normal(size=(50, 4)).astype(np.float32) * np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    held = Held(spaces, [Pair(piece, one, (one @ turn).astype(np.float32))])
    latents = LatentMatrices(held, Transform(rotation=np.eye(4)), ("rotation",))
    for step in range(400):
        latents.move(to_reference(held, latents.transform), 0.05 * (1 - step / 400))
    assert latents.transform.rotation is not None
    assert np.abs(latents.transform.rotation - turn).max() < 0.01
    assert not why_illegal(latents.transform, spaces)


def test_a_rotation_leaves_the_mean_where_layer_norms_take_it_off():
    piece = Piece("embed", None, "embed", None, "", (None, Axis("residual")))
    draw = np.random.default_rng(0)
    one, other, slope = (draw.normal(size=(9, 4)).astype(np.float32) for _ in range(3))
    held = Held(Spaces((piece,), {"residual": Space(4)}, {}, {}, "layer"), [Pair(piece, one, other)])
    latents = LatentMatrices(held, Transform(rotation=np.eye(4)), ("rotation",))
    for _ in range(5):
        latents.move([Pair(piece, slope, other)], 0.3)
    assert latents.transform.rotation is not None
    assert np.abs(latents.transform.rotation - np.eye(4)).max() > 0.1
    assert np.allclose(latents.transform.rotation.sum(1), 1.0)


def test_gradients_of_heads_are_those_of_autograd_in_float64():
    """Keys and values times (I + E) M, their queries and outputs times its inverse transpose: by E, of a linear loss."""
    own, width = Attention(4, 2, 2, "any", ()), 5
    draw = np.random.default_rng(1)
    words = {"queries": 4, "keys": 2, "values": 2, "mixed": 4}
    pieces = [
        Piece(word, None, "", 0, "", (None, Axis(f"layers.0.{word}", reads=True)))
        if word == "mixed"
        else Piece(word, None, "", 0, "", (Axis(f"layers.0.{word}"), None))
        for word in words
    ]
    sizes = {f"layers.0.{word}": Space(2 * count) for word, count in words.items()}
    spaces = Spaces(tuple(pieces), sizes, {0: own}, {}, "rms")
    shapes = [(width, 8) if piece.tensor == "mixed" else (2 * words[piece.tensor], width) for piece in pieces]
    arrays = [draw.normal(size=shape).astype(np.float32) for shape in shapes]
    held = Held(spaces, [Pair(piece, each, each) for piece, each in zip(pieces, arrays, strict=True)])
    groups, queries = np.array([1, 0]), np.array([3, 2, 0, 1])
    qk, vo = (draw.normal(size=(2, 2, 2)) + 2 * np.eye(2) for _ in range(2))
    start = Transform({}, {0: Heads(groups, queries, qk, vo)})
    slope = {piece.tensor: draw.normal(size=shape) for piece, shape in zip(pieces, shapes, strict=True)}
    latents = LatentMatrices(held, start, KINDS)
    slopes = held.slopes(slope, start, 1.0)

    stored = {piece.tensor: torch.from_numpy(each).double() for piece, each in zip(pieces, arrays, strict=True)}
    for sides, matrices in ((("keys", "queries"), qk), (("values", "mixed"), vo)):
        free = torch.zeros((2, 2, 2), dtype=torch.float64, requires_grad=True)
        moved = (torch.eye(2).double() + free) @ torch.from_numpy(matrices)
        dual = torch.linalg.inv(moved).transpose(1, 2)
        total = torch.tensor(0.0, dtype=torch.float64)
        for word, each, order in ((sides[0], moved, groups), (sides[1], dual.repeat_interleave(2, 0), queries)):
            rows = stored[word].T if word == "mixed" else stored[word]
            wanted = torch.from_numpy(slope[word].T if word == "mixed" else slope[word])
            made = torch.matmul(each, rows.reshape(-1, 2, width)[torch.from_numpy(order)]).reshape(rows.shape)
            total = total + (made * wanted).sum()
        total.backward()
        assert free.grad is not None
        assert np.allclose(latents.of_heads(slopes, 0, sides), free.grad.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "GPT-NeoX", "Qwen 3", "Mixtral"])
def test_whatever_is_learnt_is_legal(name, tmp_path):
    """After steps down a gradient of noise the transform is still one that the family does not see."""
    view, spaces = opened(make(BY_NAME[name], tmp_path / "model"))
    held, draw = Held.of(Models(view, view)), np.random.default_rng(0)
    latents = LatentMatrices(held, random_transform(spaces, 1), KINDS)
    noise = {tensor: draw.normal(size=count).astype(np.float32) for tensor, count in held.sizes.items()}
    for _ in range(15):
        latents.move(held.slopes(noise, latents.transform, 0.5), 0.3)
    assert not why_illegal(latents.transform, spaces)
    moved, began = (each.heads[0].vo for each in (latents.transform, random_transform(spaces, 1)))
    assert moved is not None
    assert began is not None
    assert np.abs(moved - began).max() > 0.1


# --- on texts -------------------------------------------------------------------------------------------------------------


@dataclass
class Distance:
    """In place of texts: how far the weights are from others."""

    wanted: dict[str, np.ndarray]
    factor: float = 1.0

    def slopes(self, weights: Mapping[str, np.ndarray], step: int) -> tuple[float, dict[str, np.ndarray]]:
        found = {name: 2.0 * self.factor * (weights[name] - self.wanted[name]) for name in weights}
        return self.held_out(weights), found

    def held_out(self, weights: Mapping[str, np.ndarray]) -> float:
        return self.factor * sum(float(((weights[name] - self.wanted[name]) ** 2).sum()) for name in weights)


def strangers(root: Path) -> Models:
    return Models(*(opened(make(BY_NAME["Llama"], root / str(seed), seed))[0] for seed in range(2)))


@pytest.mark.parametrize("method", ["learned", "straight-through"])
def test_it_is_never_worse_than_where_it_began(method, tmp_path):
    """Down the gradient it gets better; up the gradient, by a loss with the wrong sign, it keeps where it began."""
    models = strangers(tmp_path)
    held = Held.of(models)
    target = Distance({pair.piece.tensor: 0.9 * pair.one + 0.01 for pair in held.pairs})
    down = LearnedMatching(models, target, method, 6, 0.01)
    found = down.run()
    assert not why_illegal(found, models.spaces)
    assert down.losses[1] <= down.losses[0]
    assert (down.losses[1] < down.losses[0]) == (method == "learned")  # as near as it can be by weights alone

    class Wrong(Distance):
        def slopes(self, weights: Mapping[str, np.ndarray], step: int) -> tuple[float, dict[str, np.ndarray]]:
            loss, found = super().slopes(weights, step)
            return loss, {name: -each for name, each in found.items()}

    up = LearnedMatching(models, Wrong(target.wanted), method, 2, 0.5)
    up.run()
    assert up.losses[1] == up.losses[0]
    with pytest.raises(DataError, match="a smaller rate"):
        LearnedMatching(models, replace(target, factor=float("nan")), method, 4, 0.5).run()


def test_a_fine_tune_stays_as_it_is(tmp_path):
    base = make(BY_NAME["Llama"], tmp_path / "base")
    models = Models(opened(base)[0], opened(fine_tune(base, tmp_path / "tuned", 1))[0])
    assert LearnedMatching(models, Distance({}), "learned", 4, 0.1).run().is_identity


@pytest.mark.parametrize(("method", "spaces"), [("learned", ("mlp", "qk", "vo", "rotation")), ("straight-through", ())])
def test_from_the_command_line_to_the_same_answers(method, spaces, tmp_path, llamas, mergery, monkeypatch):
    """On texts: answers stay, the loss in the middle falls, and the same run gives the same bytes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts(tmp_path)
    for seed, name in enumerate(("a", "b")):
        tokenized(make(BY_NAME["Llama"], tmp_path / name, seed), llamas)
    words = ["align", tmp_path / "b", tmp_path / "out", "--to", tmp_path / "a", "--method", method]
    words += ["--spaces", *spaces] if spaces else []
    words += ["--data", tmp_path / "texts.jsonl", "--samples", 12, "--steps", 4]
    foretold = mergery(*words, "--dry-run")
    assert "in 4 steps on texts with" in foretold.out
    outcome = mergery(*words, "--check")
    assert outcome.code == 0, outcome.err
    assert "in the middle the loss on held-out texts is" in (tmp_path / "out" / "README.md").read_text()
    family = BY_NAME["Llama"]
    first, second = (logits(family, load(family, tmp_path / name)[0]) for name in ("b", "out"))
    assert float((first - second).abs().max() / first.abs().max()) < 2e-5
    if method != "learned":
        return
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    words[2] = tmp_path / "again"
    assert mergery(*words, "-q").code == 0
    once, again = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_what_cannot_be_learnt_is_refused_before_any_work(tmp_path, llamas, mergery, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "few.jsonl").write_text('{"text": "w1 w2"}\n')
    words = ("align", llamas / "b", tmp_path / "out", "--to", llamas / "a")
    data = ("--method", "learned", "--data", tmp_path / "few.jsonl")
    for more, said in (
        (("--method", "learned"), "learned needs data"),
        (("--steps", 3), "steps is of a transform that is learnt"),
        ((*data, "--steps", 0), "steps is 0"),
        ((*data, "--rate", -1), "rate is -1"),
    ):
        outcome = mergery(*words, *more)
        assert outcome.code == 2
        assert said in outcome.err
    for seed, name in enumerate(("a", "b")):
        tokenized(make(BY_NAME["Llama"], tmp_path / name, seed), llamas)
    with pytest.raises(MergeryError, match="too few to learn by"):
        package.align(tmp_path / "b", tmp_path / "a", tmp_path / "out", method="learned", data=tmp_path / "few.jsonl")
    monkeypatch.setattr("mergery.alignment.matching.learning.running.machine_memory", lambda: 1000)
    with pytest.raises(MergeryError, match=r"needs .* of memory"):
        package.align(tmp_path / "b", tmp_path / "a", tmp_path / "out", method="learned", data=tmp_path / "few.jsonl")
    assert not (tmp_path / "out").exists()
