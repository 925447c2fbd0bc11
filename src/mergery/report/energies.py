"""How much of what was learnt the factors of an adapter hold."""

from __future__ import annotations

from mergery.planning.adapter_output import AdapterPlan
from mergery.planning.plan import Plan


def kept_lines(adapter: AdapterPlan) -> list[str]:
    """What is kept of each adapter, or of the fine-tune, over all modules that this run made."""
    energies = adapter.energies
    lines = [f"{model}: {share:.1%} of its squared length is kept" for model, share in energies.shares().items()]
    lacking = len(adapter.factors) - len(energies.whole)
    return [*lines, f"without {lacking} modules, which an interrupted run had made"] if lines and lacking else lines


def energy_rows(plan: Plan) -> list[tuple[str, str, float | None]]:
    """By kind of module: its name, the range of its ranks, and the share of its squared length that is held, if it has one."""
    assert plan.adapter is not None
    energies, found = plan.adapter.energies, {}
    for name, whole in energies.whole.items():
        module = name.removesuffix(".weight")
        row = found.setdefault(module.rpartition(".")[2], ([], [0.0, 0.0]))
        row[0].append(plan.adapter.factors[module].rank)
        row[1][0] += sum(energies.held[name].values())
        row[1][1] += sum(whole.values())
    rows = []
    for kind, (ranks, (held, whole)) in found.items():
        low, high = min(ranks), max(ranks)
        rows.append((kind, str(low) if low == high else f"{low}-{high}", held / whole if whole else None))
    return rows
