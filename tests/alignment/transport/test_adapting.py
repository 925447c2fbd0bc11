"""Fine-tuning beside fixed offsets: folding changes nothing, and what is the same as fine-tuning the merged model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from mergery.alignment.transport import adapting, resuming
from mergery.alignment.transport.adapting import AdaptOptions, Frozen, adapt, batches_of, marked
from mergery.alignment.transport.options import TransportOptions
from mergery.alignment.transport.running import transport
from mergery.calibration.data import Row
from mergery.calibration.replacing import begin_work
from mergery.errors import MergeryError
from tests.alignment.transport.planted import error, logits, save, small
from tests.conftest import Killed

NAME = "model.layers.0.mlp.up_proj.weight"


def _offsets(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = (NAME, "model.layers.1.self_attn.o_proj.weight")
    return {name: 0.1 * torch.randn(model.state_dict()[name].shape, generator=generator) for name in names}


def _rows(count: int = 24) -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    return [Row((), tuple(torch.randint(2, 128, (9,), generator=generator).tolist())) for _ in range(count)]


def _merged(model: Any, offsets: dict[str, torch.Tensor]) -> Any:
    made = small()
    made.load_state_dict({key: value + offsets.get(key, 0.0) for key, value in model.state_dict().items()})
    return made.eval()


def test_folding_changes_no_answer() -> None:
    model = small()
    offsets = _offsets(model)
    frozen = Frozen(model, offsets)
    before = logits(model)
    assert torch.equal(logits(frozen.fold()), before)
    assert error(before, logits(_merged(small(), offsets))) < 1e-6
    assert NAME in model.state_dict()


def test_without_decay_it_is_fine_tuning_of_the_merged_model() -> None:
    options = AdaptOptions(rate=1e-3, decay=0.0, batch=8)
    offsets = {name: value.double() for name, value in _offsets(small()).items()}
    found = adapt(small().double(), offsets, _rows(), options)
    plain = adapt(_merged(small().double(), offsets).double(), {}, _rows(), options)
    for key, value in plain.state_dict().items():
        assert error(found.state_dict()[key], value) < 1e-3
    assert error(found.state_dict()[NAME], small().state_dict()[NAME] + offsets[NAME]) > 1e-3  # it has learnt something


def test_the_loss_falls_and_answers_alone_are_learnt() -> None:
    losses: list[float] = []
    rows = [Row((5, 6, 7), (8, 9, 10))] * 16
    adapt(small(), {}, rows, AdaptOptions(epochs=10, rate=3e-3), told=lambda done, total, loss: losses.append(loss))
    assert losses[-1] < 0.5 * losses[0] and len(losses) == 20


def test_batches_are_all_rows_in_an_order_that_the_seed_decides() -> None:
    rows = _rows(10)
    one, same, other = (list(batches_of(rows, AdaptOptions(epochs=2, batch=4, seed=seed))) for seed in (0, 0, 1))
    assert one == same != other
    assert sorted(row.tokens for batch in one[:3] for row in batch) == sorted(row.tokens for row in rows)


def test_a_transport_that_is_adapted_is_a_model_like_any(
    target: Path, texts: Path, tmp_path: Path, mergery: Callable[..., Any]
) -> None:
    source = save(small(seed=7, layers=3), tmp_path / "source")
    command = ("--into", target, "--data", texts, "--weights", tmp_path / "kept", "--threads", 1, "--alpha", 0.2)
    assert mergery("transport", source, tmp_path / "plain", *command).code == 0
    done = mergery("transport", source, tmp_path / "out", *command, "--adapt", texts, "--rate", 1e-3)
    assert done.code == 0, done.err
    plain, adapted = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "out"))
    assert plain.keys() == adapted.keys()
    assert 1e-4 < error(adapted[NAME], plain[NAME]) < 0.2
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert mergery("verify", tmp_path / "out").code == 0
    assert not (tmp_path / "out.adapted").exists()
    again = mergery("transport", source, tmp_path / "out", *command, "--adapt", texts, "--rate", 1e-3)
    assert again.code == 0 and "already there" in again.err
    for rate, said in ((1e-3, "already there"), (1e-2, "holds the result of another plan")):  # seen before it trains
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(adapting, "adapt", lambda *given, **more: pytest.fail("it was trained for nothing"))
            again = mergery("transport", source, tmp_path / "out", *command, "--adapt", texts, "--rate", rate)
        assert said in again.err
    alone = mergery("transport", source, tmp_path / "other", *command, "--rate", 1e-3)
    assert alone.code == 2 and "there is nothing to adapt" in alone.err


def test_a_fine_tuning_that_was_killed_goes_on_with_the_same_bytes(
    target: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str, rate: float = 1e-3) -> None:
        transport(
            source, target, texts, tmp_path / out, weights=tmp_path / "kept", options=TransportOptions(threads=1),
            adapt=texts, adapting=AdaptOptions(rate=rate),
        )  # fmt: skip

    source = save(small(seed=7, layers=3), tmp_path / "source")
    real, steps, last = adapting._loss, [], 1000

    def counted(model: Any, batch: Any) -> Any:
        steps.append(batch)
        if len(steps) == last:
            raise Killed
        return real(model, batch)

    monkeypatch.setattr(adapting, "_loss", counted)
    run("whole")
    total, last = len(steps), len(steps) + 4
    monkeypatch.setattr(resuming, "EVERY", 0.0)
    with pytest.raises(Killed):
        run("halved")
    assert (tmp_path / "halved.adapted" / "state.pt").exists()
    run("halved")
    whole, halved = (tmp_path / name / "model.safetensors" for name in ("whole", "halved"))
    assert whole.read_bytes() == halved.read_bytes()
    assert len(steps) == 2 * total + 1  # the fourth step again, and none before it
    assert not (tmp_path / "halved.adapted").exists()


def test_what_is_left_of_other_settings_is_not_gone_on_from(tmp_path: Path) -> None:
    work = tmp_path / "out.adapted"
    begin_work(work, "adapt.json", ["mark", 0.1, "texts", marked(AdaptOptions())])
    (work / "state.pt").write_bytes(b"of these")
    begin_work(work, "adapt.json", ["mark", 0.1, "texts", marked(AdaptOptions(rate=1e-4))])
    assert [file.name for file in work.iterdir()] == ["adapt.json"]


@pytest.mark.parametrize(("name", "value"), [("rate", 0.0), ("batch", 0), ("epochs", 0), ("decay", 1.0)])
def test_settings_that_mean_nothing_are_refused(name: str, value: float) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(MergeryError, match=f"{name} is {value:g}"):
        AdaptOptions(**given)
