"""Odd values, and damage that knows the structure of what it damages."""

from __future__ import annotations

import json
import random
from typing import Any

NAMES = (
    "w", "", ".", "..", "../secret", "../../secret.safetensors", "/etc/passwd", "a\0b", "a\nb", "__metadata__", "\ud800",
    "\u202egnp", "a" * 3000, "model.layers.0.mlp.up_proj.weight", "model.layers.99999999999999999999.w", "~root/x",
    "model.layers.-1.w", "model.layers.0x1.w", "C:\\x", "%s%n{0}", "[[a]", "model.layers.٣.w", "\x1b[2J", "-rf", "a/b", "a:b",
    "x" * 300 + ".bin", "model.layers.4096.w", "...", "con", "w.w.w", "\ufeff",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, 1, 2, 4, 7, 8, 16, -1, 255, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**30), 1.0, 1.5,
    -0.0, 1e300, 1e-300, float("inf"), float("nan"), True, False, None, "1", "", [], {}, [1], "1e5", [[1]],
)  # fmt: skip
WORDS = ("F32", "BF16", "F16", "I8", "F4", "F8_E4M3", "f32", "F32 ", "BOOL", "U64", "C64", "X", "__proto__")


def noise(chance: random.Random, most: int = 300) -> bytes:
    """Bytes without any structure."""
    return chance.randbytes(chance.randrange(most))


def damage(chance: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut, repeated or put in."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((1, 1, 2, 4, 8, 64))
        match chance.randrange(6):
            case 0:
                data = data[:at] + chance.randbytes(size) + data[at + size :]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + data[at + size :]
            case 3:
                data = data[:at] + data[max(0, at - size) : at] * chance.choice((2, 3, 50)) + data[at:]
            case 4:
                data = (
                    data[:at]
                    + chance.choice((b"\0", b"\xff", b"\xed\xa0\x80", b"\n", b"-", b"{", b"[", b"9" * 40))
                    + data[at:]
                )
            case _:
                data = (
                    data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
                    if at < len(data)
                    else data
                )
    return data


def sometimes(chance: random.Random, data: bytes, share: float = 0.3) -> bytes:
    return damage(chance, data) if chance.random() < share else data


def junk(chance: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    pick = chance.randrange(10 if depth < 3 else 8)
    if pick < 4:
        return chance.choice(NUMBERS)
    if pick < 6:
        return chance.choice(NAMES)
    if pick < 8:
        return chance.choice(WORDS)
    if pick == 8:
        return [junk(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(NAMES): junk(chance, depth + 1) for _ in range(chance.randrange(4))}


def spoil(chance: random.Random, value: Any, share: float) -> Any:
    """A JSON value in which some parts, at any depth, are others."""
    if chance.random() < share:
        return junk(chance)
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            key = chance.choice(NAMES) if chance.random() < share / 2 else key
            if chance.random() > share / 2:
                result[key] = spoil(chance, item, share)
        return result
    if isinstance(value, list):
        return [spoil(chance, item, share) for item in value if chance.random() > share / 2]
    return value


def as_json(chance: random.Random, value: Any) -> bytes:
    """JSON text; sometimes with a key twice, very deep, or with odd space around."""
    text = json.dumps(value, ensure_ascii=chance.random() < 0.7).encode("utf-8", "surrogatepass")
    roll = chance.random()
    if roll < 0.03:
        depth = chance.choice((60, 200, 900, *range(940, 1000, 3), 5000, 100_000))
        opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
        deep = opening * depth + b"1" + closing * depth * (chance.random() < 0.9)
        at = text.find(b":") + 1
        text = text[:at] + deep + b"," + b'"z":' * (text[:1] == b"{") + text[at:] if at else deep
    elif roll < 0.06 and text[:1] == b"{" and len(text) > 2:
        text = b"{" + text[1:-1] + b"," + text[1:]
    elif roll < 0.08:
        text = text.replace(b"1", b"9" * chance.choice((20, 400, 5000)), 1)
    elif roll < 0.1:
        text = chance.choice((b" ", b"\n", b"\xef\xbb\xbf", b"\0")) + text
    return sometimes(chance, text, 0.1)
