"""The conformance suite: what every merging method must do, as a list of checks for pytest.

    @pytest.mark.parametrize("check", conformance(mine, reference=my_float64_version))
    def test_mine(check):
        check()

Each check raises AssertionError saying what is wrong. The suite needs neither pytest nor files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergery.engine.in_memory import merge_tensors
from mergery.method import Method
from mergery.testing.examples import (
    DTYPES,
    assert_close,
    coins_of,
    example,
    refused,
    same,
)
from mergery.testing.pieces import InPieces
from mergery.testing.subject import Evaluate, Reference, Subject


@dataclass(frozen=True)
class Check:
    """One check; calling it runs it."""

    name: str
    run: Callable[[], None]

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self) -> None:
        self.run()


class Conformance(Subject):
    """The checks. Each says what must hold, and fails with what does not."""

    def documents_its_settings(self) -> None:
        doc = self.method.doc
        assert self.method.summary.endswith("."), "the first line of the docstring is one sentence"
        missing = [name for name in self.method.settings if f"\n    {name}: " not in doc]
        assert not missing, f"the docstring has no line 'name: ...' for {', '.join(missing)}"

    def keeps_shape_and_dtype(self) -> None:
        import torch

        for shape, dtype, with_base in itertools.product((*self.shapes, *self.empty), DTYPES, self.bases):
            models, base = example(shape, self.k, dtype=dtype, base=with_base)
            out = self.merge(models, base)
            assert tuple(out.shape) == shape, f"{shape} became {tuple(out.shape)}"
            assert out.dtype == getattr(torch, dtype), f"{dtype} became {out.dtype}"
            assert bool(out.isfinite().all()), f"not finite for {shape} {dtype}"

    def leaves_its_inputs_alone(self) -> None:
        for with_base in self.bases:
            models, base = example((5, 7), self.k, base=with_base)
            given = [*models, *([] if base is None else [base])]
            before = [tensor.clone() for tensor in given]
            self.merge(models, base)
            assert all(same(a, b) for a, b in zip(given, before, strict=True)), "an input was written to"

    def gives_the_same_bytes_again(self) -> None:
        for with_base in self.bases:
            models, base = example((33, 65), self.k, base=with_base)
            assert same(self.merge(models, base, seed=3), self.merge(models, base, seed=3))

    def gives_the_base_where_nothing_changed(self) -> None:
        for shape in self.shapes:
            models, base = example(shape, self.k, base=True)
            assert base is not None
            out = self.merge([base.clone() for _ in models], base)
            assert bool(out.isfinite().all()), f"not finite for {shape}"
            assert same(out, base), f"not the base for {shape}"

    def is_finite_for_zeros(self) -> None:
        for with_base, shape in itertools.product(self.bases, self.shapes):
            models, base = example(shape, self.k, base=with_base)
            zeros = [model * 0.0 for model in models]
            out = self.merge(zeros, None if base is None else base * 0.0)
            assert same(out, zeros[0]), f"zeros did not stay zeros for {shape}"
            out = self.merge([zeros[0], *models[1:]], base)
            assert bool(out.isfinite().all()), f"not finite with one model of zeros, {shape}"

    def is_finite_at_any_scale(self) -> None:
        for with_base, scale in itertools.product(self.bases, (1e-8, 1.0, 1e8)):
            models, base = example((33, 65), self.k, base=with_base)
            out = self.merge([model * scale for model in models], None if base is None else base * scale)
            assert bool(out.isfinite().all()), f"not finite at scale {scale:g}"

    def scales_with_its_inputs(self) -> None:
        for with_base, scale in itertools.product(self.bases, (2.0**-27, 2.0**27)):
            models, base = example((33, 65), self.k, base=with_base)
            plain = self.merge(models, base) * scale
            out = self.merge([model * scale for model in models], None if base is None else base * scale)
            assert_close(out, plain, self.close, f"at scale {scale:g} the result is another one")

    def does_not_mind_the_order(self) -> None:
        if self.draws():
            return  # each model has its own randomness
        for with_base in self.bases:
            models, base = example((33, 65), self.k, base=with_base)
            plain = self.merge(models, base)
            for order in itertools.permutations(models):
                assert_close(self.merge(order, base), plain, self.close, "the order of the models matters")

    def returns_identical_models(self) -> None:
        for with_base, shape in itertools.product(self.bases, self.shapes):
            models, base = example(shape, self.k, base=with_base)
            out = self.merge([models[0].clone() for _ in models], base, **(self.fixed_point or {}))
            assert_close(out, models[0], self.close, f"identical models do not come back for {shape}")

    def takes_one_model(self) -> None:
        for with_base, shape in itertools.product(self.bases, self.shapes):
            models, base = example(shape, 1, base=with_base)
            out = self.merge(models, base)
            assert out.shape == models[0].shape
            assert bool(out.isfinite().all())

    def refuses_what_it_cannot_merge(self) -> None:
        least, most = self.method.models
        wrong = [least - 1] if least > 1 else []
        wrong += [most + 1] if most is not None else []
        for k in wrong:
            models, base = example((3, 2), k, base=self.bases[0])
            assert refused(lambda: self.merge(models, base)), f"{k} models were taken"  # noqa: B023
        models, base = example((3, 2), self.k, base=self.bases[0])
        assert refused(lambda: self.merge(models, base, no_such_setting=1)), "an unknown setting was taken"
        for shape in ((), (7,)) if self.method.unit == "matrix" else ():
            models, base = example(shape, self.k, base=self.bases[0])
            assert refused(lambda: self.merge(models, base)), f"{shape} was taken for a matrix"  # noqa: B023
        models, base = example((3, 2), self.k, base=self.bases[0])
        if self.method.base == "required":
            assert refused(lambda: self.merge(models, None)), "it was merged without a base"

    def agrees_with_its_reference(self) -> None:
        import numpy as np

        assert self.reference is not None
        spread = (False, True) if "weight" in self.method.settings else (False,)
        for with_base, shape, k, uneven in itertools.product(
            self.bases, (*self.shapes, *self.empty), self.counts(), spread
        ):
            models, base = example(shape, k, base=with_base)
            own: dict[str, Any] = {"weight": [0.5 + 0.75 * model for model in range(k)]} if uneven else {}
            out = self.merge(models, base, seed=5, **own)
            wide = [model.double().numpy() for model in models]
            settings = self.method.resolve(k, {**self.settings, **own})
            coins = coins_of(models, 5)
            expected = self.reference(wide, None if base is None else base.double().numpy(), coins, **settings)
            assert expected.shape == tuple(out.shape), "the reference gives another shape"
            size = max([float(np.abs(x).max()) for x in (*wide, expected) if x.size] or [1.0])
            error = np.abs(out.double().numpy() - expected)
            where = np.unravel_index(int(error.argmax()), error.shape) if error.size else ()
            assert (error <= self.tolerance * size).all(), (
                f"differs from its reference by {error[where]:.3g} at {where} for {k} models of {shape}"
            )

    def may_be_called_in_pieces(self) -> None:
        for with_base, pieces in itertools.product(self.bases, (2, 5)):
            models, base = example((33, 65), self.k, base=with_base)
            whole = self.merge(models, base, evaluate=Method.__call__)
            cut = self.merge(models, base, evaluate=InPieces(pieces))
            assert same(whole, cut), f"unit={self.method.unit!r} is not true: {pieces} pieces give another result"

    def takes_each_matrix_by_itself(self) -> None:
        if self.draws():
            return  # each matrix of a stack has its own randomness
        for with_base in self.bases:
            models, base = example((3, 17, 9), self.k, base=with_base)
            models[0][1] = models[-1][1]
            models[-1][2] *= 0.0
            together = self.merge(models, base)
            for place, matrix in enumerate(together):
                alone = self.merge([model[place] for model in models], None if base is None else base[place])
                assert_close(matrix, alone, self.close, f"matrix {place} of a stack is not what it is alone")

    def gives_the_transpose_of_the_transpose(self) -> None:
        for with_base, shape in itertools.product(self.bases, ((17, 9), (33, 65))):
            models, base = example(shape, self.k, base=with_base)
            plain = self.merge(models, base)
            out = self.merge([model.mT for model in models], None if base is None else base.mT)
            assert_close(out.mT, plain, self.close, f"the transposes of {shape} give another matrix")

    def mixes_each_gram_matrix_by_itself(self) -> None:
        import numpy as np

        random = np.random.default_rng(0)
        vectors = random.standard_normal((4, 3, self.k, 6))
        vectors[0, 0] = 0.0
        vectors[0, 1, 0] = 0.0
        vectors[0, 2, 1:] = vectors[0, 2, :1]
        gram = vectors @ vectors.swapaxes(-1, -2)
        settings = self.method.resolve(self.k, self.settings)
        together = self.method.function(gram, **settings)
        assert together.shape == (4, 3, self.k), f"a Gram of shape {gram.shape} gave {together.shape}"
        assert together.dtype == np.float64
        for place in np.ndindex(4, 3):
            alone = self.method.function(gram[place], **settings)
            assert np.allclose(alone, together[place], rtol=1e-9, atol=1e-9)

    def agrees_with_the_whole_tensor(self) -> None:
        for with_base, shape in itertools.product(self.bases, self.large):
            models, base = example(shape, self.k, base=with_base)
            plain = self.merge(models, base, seed=7, evaluate=Method.__call__)
            assert_close(self.merge(models, base, seed=7), plain, self.close, f"not what whole tensors give, {shape}")

    def gives_the_same_bytes_in_other_ways(self) -> None:
        for with_base, shape in itertools.product(self.bases, self.large):
            models, base = example(shape, self.k, base=with_base)
            plain = self.merge(models, base, seed=9)
            for number, other in enumerate(self.also):
                assert same(self.merge(models, base, seed=9, evaluate=other), plain), f"also[{number}] differs"


def conformance(
    method: Method,
    *,
    settings: Mapping[str, Any] | None = None,
    evaluate: Evaluate = merge_tensors,
    reference: Reference | None = None,
    fixed_point: Mapping[str, Any] | None = None,
    scale_free: bool = True,
    also: Sequence[Evaluate] = (),
    tolerance: float = 2e-6,
    close: float = 1e-6,
    mirrored: bool = False,
) -> list[Check]:
    """The checks that apply to a method.

    settings:    what every call is given; per-model settings as one value for all.
    evaluate:    how it is run: by default, by the engine; `Method.__call__` runs it in plain torch.
    reference:   a naive float64 version; results may differ by `tolerance` times the largest value.
    fixed_point: settings (possibly none: {}) under which identical models come back unchanged; None if none do.
    scale_free:  whether inputs c times as large give a result c times as large, at any scale.
    also:        other ways to evaluate that must give the same bytes: other chunks, other numbers of threads.
    close:       how far, of the largest value, results may lie apart that are equal but for rounding, as those of another
                 order of the models; more than the default where a method amplifies it, as iterations do.
    mirrored:    of a method on matrices: whether transposed inputs give the transposed result.

    Methods on matrices are given matrices, stacks of them, and kernels, and must refuse vectors.
    """
    own = (settings or {}, evaluate, reference, fixed_point, scale_free, tuple(also), tolerance, close, mirrored)
    suite = Conformance(method, *own)
    checks = [
        suite.documents_its_settings,
        suite.keeps_shape_and_dtype,
        suite.leaves_its_inputs_alone,
        suite.gives_the_same_bytes_again,
        suite.is_finite_for_zeros,
        suite.is_finite_at_any_scale,
        suite.refuses_what_it_cannot_merge,
    ]
    if method.base != "unused":
        checks.append(suite.gives_the_base_where_nothing_changed)
    if scale_free:
        checks.append(suite.scales_with_its_inputs)
    if method.symmetric and (method.models[1] or 2) > 1:
        checks.append(suite.does_not_mind_the_order)
    if fixed_point is not None:
        checks.append(suite.returns_identical_models)
    if method.models[0] <= 1:
        checks.append(suite.takes_one_model)
    if reference is not None:
        checks.append(suite.agrees_with_its_reference)
    if method.gives == "tensor" and method.unit in ("element", "row"):
        checks.append(suite.may_be_called_in_pieces)
    if method.unit == "matrix":
        checks.append(suite.takes_each_matrix_by_itself)
    if mirrored:
        checks.append(suite.gives_the_transpose_of_the_transpose)
    if method.takes == "gram":
        checks.append(suite.mixes_each_gram_matrix_by_itself)
    if evaluate is not Method.__call__:
        checks.append(suite.agrees_with_the_whole_tensor)
    if also:
        checks.append(suite.gives_the_same_bytes_in_other_ways)
    return [Check(check.__name__, check) for check in checks]
