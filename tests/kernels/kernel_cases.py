"""Stored inputs for the kernels, and calls of one kernel in both modules."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from mergery.kernels import compiled, readable

BOTH = (compiled, readable)
TORCH = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
SIZES = (2, 2, 4, 8, 4)  # of all codes; the last is no type of an input
OVERFLOW = 1 << 62

SPECIAL = (
    0.0, -0.0, 1.0, -1.0, 2.0**-24, -(2.0**-25), 2.0**-25 * 1.0001, 2.0**-14, 2.0**-15, 6.1e-5, 1e-40, -1e-45,
    2.0**-126, 65504.0, 65519.99, 65520.0, -65536.0, 3.38e38, 3.4028234e38, -3.3961775e38, 1 / 3, 1e-8, 1e8,
)  # fmt: skip


def store(values: np.ndarray, code: int) -> np.ndarray:
    """Numbers to stored bytes, by torch."""
    rounded = torch.from_numpy(np.asarray(values)).to(TORCH[code])
    return (rounded if code else rounded.view(torch.int16)).numpy().view(np.uint8)


def load(stored: np.ndarray, code: int, n: int) -> torch.Tensor:
    """Stored bytes to a tensor of the stored type, by torch."""
    return torch.from_numpy(stored[: n * SIZES[code]].copy()).view(TORCH[code])


def pack(rows: list[np.ndarray], codes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """`raw` and `codes` for the kernels. What lies behind the elements is filled with NaN."""
    n = len(rows[0])
    raw = np.full((len(rows), 8 * n + 16), 0xFF, np.uint8)
    for j, (row, code) in enumerate(zip(rows, codes, strict=True)):
        stored = store(row, code)
        raw[j, : stored.size] = stored
    return raw, np.array(codes, np.int64)


def draw(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    """n float64 numbers: ordinary weights, awkward finite ones, any float32 pattern, or some not finite."""
    if kind == "weights":
        return rng.standard_normal(n) * 10.0 ** rng.integers(-8, 3)
    if kind == "special":
        return rng.choice(np.array(SPECIAL), n)
    with np.errstate(all="ignore"):
        values = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32).astype(np.float64)
        values *= 1 + rng.random(n) * 1e-9
    values[~np.isfinite(values)] = 1.0
    if kind == "broken":
        values[rng.random(n) < 0.01] = rng.choice([np.nan, np.inf, -np.inf])
    return values


@dataclass(frozen=True)
class Case:
    """Inputs of one call."""

    raw: np.ndarray
    codes: np.ndarray
    n: int
    has_base: int

    @property
    def k(self) -> int:
        return len(self.codes) - self.has_base

    @property
    def blocks(self) -> int:
        return -(-self.n // 65536)

    def part(self, start: int, stop: int) -> Case:
        """The same rows, elements [start, stop) only."""
        raw = np.zeros_like(self.raw)
        for j, code in enumerate(self.codes):
            size = SIZES[code]
            raw[j, : (stop - start) * size] = self.raw[j, start * size : stop * size]
        return Case(raw, self.codes, stop - start, self.has_base)

    def vectors(self) -> list[np.ndarray]:
        """What is merged, in float32, by torch."""
        rows = [load(row, code, self.n).to(torch.float32) for row, code in zip(self.raw, self.codes, strict=True)]
        return [(row - rows[0] if self.has_base else row).numpy() for row in rows[self.has_base :]]


def make(seed: int, kind: str, codes: list[int], n: int, has_base: int) -> Case:
    """Random rows of one kind; with a base, the first model equals the base in a quarter of the places."""
    rng = np.random.default_rng(seed)
    rows = [draw(rng, kind, n) for _ in codes]
    if has_base and len(rows) > 1:
        rows[1] = np.where(rng.random(n) < 0.25, rows[0], rows[1])
    return Case(*pack(rows, codes), n, has_base)


def singles(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Consensus:
    """The settings of `agree`, for k models."""

    keys: np.ndarray
    weight: np.ndarray
    least: np.ndarray
    most: np.ndarray
    probability: np.ndarray
    gain: np.ndarray
    random: int = 0
    elect: int = 0
    normalize: int = 0
    divisor: float = 1.0
    scale: float = 1.0

    def consensus(self, module: ModuleType, case: Case, out_code: int, offset: int = 0) -> tuple[int, np.ndarray]:
        out = np.zeros(case.n * SIZES[out_code], np.uint8)
        status = module.consensus(
            case.raw, case.codes, case.n, offset, self.keys, self.weight, self.least, self.most,
            self.probability, self.gain, self.random, self.elect, self.normalize, self.divisor, self.scale,
            out, out_code,
        )  # fmt: skip
        return status, out

    def l1_norms(self, module: ModuleType, case: Case, offset: int = 0) -> tuple[int, np.ndarray]:
        out = np.full((case.blocks, case.k, 2), np.nan)
        status = module.l1_norms(
            case.raw, case.codes, case.n, offset, self.keys, self.least, self.most, self.probability,
            self.random, out,
        )  # fmt: skip
        return status, out


def consensus(seed: int, k: int, **flags: Any) -> Consensus:
    """Random settings."""
    rng = np.random.default_rng(seed)
    return Consensus(
        keys=rng.integers(0, 2**64, k, dtype=np.uint64),
        weight=rng.choice(singles(1.0, 0.5, -0.25, 0.7, 0.0), k),
        least=rng.choice(singles(0.0, 0.01, 1e-6, np.inf), k, p=[0.4, 0.3, 0.2, 0.1]),
        most=rng.choice(singles(np.inf, 0.5, 1e-3), k, p=[0.6, 0.2, 0.2]),
        probability=rng.choice(singles(0.0, 1e-9, 0.2, 0.5, 1.0), k),
        gain=rng.choice(singles(1.0, 2.0, 1.7), k),
        **flags,
    )


def mix(module: ModuleType, case: Case, coefficients: np.ndarray, out_code: int) -> tuple[int, np.ndarray]:
    out = np.zeros(case.n * SIZES[out_code], np.uint8)
    status = module.mix(case.raw, case.codes, case.n, case.has_base, coefficients, out, out_code)
    return status, out


def gram(module: ModuleType, case: Case) -> tuple[int, np.ndarray]:
    out = np.full((case.blocks, case.k, case.k), np.nan)
    return module.gram(case.raw, case.codes, case.n, case.has_base, out), out


def count_high(module: ModuleType, case: Case) -> tuple[int, np.ndarray]:
    counts = np.zeros((case.k, 32768), np.int64)
    return module.count_high(case.raw, case.codes, case.n, case.has_base, counts), counts


def count_low(
    module: ModuleType, case: Case, first: np.ndarray, buckets: int = 1
) -> tuple[int, np.ndarray, np.ndarray]:
    counts = np.zeros((*first.shape, buckets * 65536), np.int64)
    above = np.zeros(first.shape, np.int64)
    return module.count_low(case.raw, case.codes, case.n, case.has_base, first, counts, above), counts, above
