"""Which norm stands before each tensor that reads the residual stream: where one does, it hides a rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

ATTENTION, MLP, LAST = "attention", "mlp", "last"
_PLACES = {
    **dict.fromkeys(("input_layernorm", "ln_1", "ln_attn", "self_attn_layer_norm"), ATTENTION),
    **dict.fromkeys(("post_attention_layernorm", "ln_2", "ln_mlp", "final_layer_norm"), MLP),
}  # by the name of a layer's norm; in OPT the one before the MLP is the final one


def norms_before(
    pieces: Iterable[Any], reads: Callable[[Any], bool], stated: Callable[[str], object]
) -> tuple[dict[str, str], str]:
    """The gains of the norm before each tensor that reads the residual stream; or nothing, and why not.

    Known are layers with one norm before attention and one before the MLP, or with one before both, and one norm behind all
    layers. `pieces` are `spaces.Piece`; `stated` gives what the config says.
    """
    if stated("do_layer_norm_before") is False:
        return (
            {},
            "its norms stand behind attention and MLP (do_layer_norm_before is false), and see a rotation of the sum",
        )
    pieces = list(pieces)
    places: dict[tuple[int | None, str], str] = {}
    for name, layer in _norms(pieces):
        word = LAST if layer is None else _PLACES.get(name.split(".")[-2], "")
        if not word or (layer, word) in places:
            return {}, f"its norm {name!r} does not stand before what reads the residual stream, and sees a rotation"
        places[layer, word] = name
    found: dict[str, str] = {}
    for piece in pieces:
        if not reads(piece):
            continue
        word = LAST if piece.layer is None else ATTENTION if piece.role.startswith("attention") else MLP
        own = places.get((piece.layer, word))
        if own is None and word == MLP:  # attention and MLP beside each other, behind one norm
            own = places.get((piece.layer, ATTENTION))
        if own is None:
            return {}, f"no norm with gains of its own is known to stand before {piece.tensor!r}"
        found[piece.tensor] = own
    return found, ""


def _norms(pieces: Sequence[Any]) -> list[tuple[str, int | None]]:
    """Gains of the norms of the residual stream, and their layers."""
    of = [piece for piece in pieces if piece.role == "norm" and piece.axes[0] is not None]
    return [(piece.tensor, piece.layer) for piece in of if not piece.tensor.endswith("bias")]


def shift_of(gains: str) -> str:
    """What the bias of a norm is called, if it has one."""
    return f"{gains.removesuffix('weight')}bias"
