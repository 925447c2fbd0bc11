"""The methods as a page: idea, formula, settings, source. Made from the methods themselves.

python -m benchmarks.reference
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mergery.method import Method, Setting, methods
from mergery.method.roles import BASE, Preset, Rest

HEAD = """\
# Methods

Made by `python -m benchmarks.reference`; do not edit. [Which method, and which weights](choosing.md) says what to try first,
and [What methods cost](methods-cost.md) how long each takes.

In all formulas x_i are the models, b is the base, d_i = x_i - b are the task vectors, w_i are the weights, k is the number of
models. A setting marked *per model* takes one value for all, or a mapping by model name; every setting can be a gradient over
depth or filtered by layer and role ([how](recipe.md#settings)). [Which tensors get what](which-tensors.md) says on which
tensors a method works, and what the others get. `mergery methods` prints the list, and `mergery methods NAME` what is said of
one.

"""
FIRST = ("linear", "slerp", "task_arithmetic", "ties", "model_stock", "iso_c", "swudi_a")
"""The methods to know first."""
GROUPS: dict[str, tuple[str, ...]] = {
    "Averages": (
        "linear", "slerp", "nuslerp", "multislerp", "karcher", "geometric_median", "model_stock", "run_average",
    ),
    "Sums of task vectors": (
        "task_arithmetic", "metagpt", "balanced", "expo", "analogy", "train_difference", "rebase", "negation",
    ),
    "Task vectors with entries left out, or signs elected": (
        "ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties", "pcb",
        "neuromerging", "consensus", "trust_region", "sce", "magmax", "ram", "ramplus_tl",
    ),
    "Matrices, by singular vectors": (
        "iso_c", "iso_cts", "tsv_merge", "dc_merge", "knots", "subspace_boosting", "svc", "opcm", "orthomerge", "coram",
        "rotate", "truncate", "star", "cart", "resmerge", "monosoup", "spectral_filter",
    ),
    "Matrices, with the least interference": ("swudi", "swudi_a", "wudi", "ace", "actmat", "optmerge", "dop", "doge"),
    "With statistics of data": ("regmean", "fisher", "led", "reasonany"),
    "One model for each task, in little space": ("emr", "tall_mask", "tsv_compress", "onebit"),
    "One model, or two": ("passthrough", "nearswap", "arcee_fusion", "cosine_add", "clamp"),
}  # fmt: skip
"""The methods by what they do; those of other packages are in none."""


def groups() -> dict[str, list[Method]]:
    """All methods by what they do, those of other packages last."""
    known = methods()
    found = {title: [known[name] for name in names if name in known] for title, names in GROUPS.items()}
    placed = {name for names in GROUPS.values() for name in names}
    others = [method for name, method in known.items() if name not in placed]
    return found | ({"From other packages": others} if others else {})


def page() -> str:
    """All methods in Markdown."""
    parts = [HEAD, "## To know first\n\n", *table([methods()[name] for name in FIRST])]
    for title, members in groups().items():
        parts += [f"\n## {title}\n\n", *table(members)]
    return "".join([*parts, "\n## From A to Z\n", *(f"\n{section(method)}" for method in methods().values())])


def table(members: Sequence[Method]) -> list[str]:
    """A table of methods: what each does, and when to use it."""
    rows = ["| method | what it does | use it |\n", "|---|---|---|\n"]
    for method in members:
        rows.append(f"| [{method.name}](#{method.name}) | {_cell(method.summary)} | {_cell(occasion(method))} |\n")
    return rows


def section(method: Method) -> str:
    """One method in Markdown."""
    lines = [f"### {method.name}", "", method.summary, "", method.about, "", facts(method), ""]
    if method.settings:
        lines += ["| setting | value | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{s.name}` | {s.type_in_words()}{', per model' if s.per_model else ''} | {default(s)} | {_cell(s.doc)} |"
            for s in method.settings.values()
        ]
        lines.append("")
    lines += [*treatments(method), "```yaml", example(method), "```", ""]
    return "\n".join(lines)


def facts(method: Method) -> str:
    """How many models a method merges, what else it needs, and what it reads."""
    number = count(method)
    merged = f"Merges {number} model{'' if number == '1' else 's'}"
    needs = f", and needs {' and '.join(method.needs)}" if method.needs else ""
    return f"{merged}{needs}. Reads {method.cost}."


def worked_on() -> str:
    """Where each method works that does not work on every tensor, by itself and by the paper's choice: a Markdown table."""
    rows = ["| method | works on | the rest gets | `preset: paper` |", "|---|---|---|---|"]
    for method in methods().values():
        if method.roles is not None:
            own = f"| [{method.name}](methods.md#{method.name}) | {listed(method.roles)} | {treatment(method.rest)} |"
            paper = method.presets.get("paper")
            rows.append(f"{own} {chosen(paper) if paper else 'none'} |")
    return "\n".join(rows) + "\n"


def chosen(preset: Preset) -> str:
    """What a preset sets, in words."""
    facts = [f"{key}: {value}" for key, value in preset.settings.items()]
    facts += [f"works on {listed(preset.roles)}"] if preset.roles else []
    facts += [f"the rest: {treatment(preset.rest)}"] if preset.rest else []
    return "; ".join(facts) or "the defaults"


def treatments(method: Method) -> list[str]:
    """Where a method works, what the rest gets, and its presets, in Markdown."""
    lines = []
    if method.roles is not None:
        lines += [f"Works on {listed(method.roles)} tensors; the rest: {treatment(method.rest)}.", ""]
    for name, preset in method.presets.items():
        lines += [f"`preset: {name}`: {chosen(preset)}.", ""]
    return lines


def listed(roles: Sequence[str]) -> str:
    return ", ".join(f"`{role}`" for role in roles)


def treatment(rest: Rest) -> str:
    """What the rest gets, in words."""
    if isinstance(rest, str):
        return "the base's own" if rest == BASE else f"`{rest}`"
    settings = ", ".join(f"{key}: {value}" for key, value in rest.items() if key != "method")
    return f"`{rest['method']}` ({settings.lower()})"


def example(method: Method) -> str:
    """A recipe for one method."""
    count = max(method.models[0], min(method.models[1] or 2, 2))
    names = ["math", "code"][:count]
    base = ["base"] if method.base == "required" else []
    stated = {name: f"./{name}" for name in base + names}
    if method.statistics:
        stated |= {name: f"{{path: ./{name}, statistics: ./{name}-stats}}" for name in names}
    if any(ask.of_base for ask in method.statistics):
        on = ", ".join(f"{name}: ./base-on-{name}" for name in names)
        stated["base"] = f"{{path: ./base, statistics: {{{on}}}}}"
    models = ", ".join(f"{name}: {each}" for name, each in stated.items())
    words = {"float": "0.5", "fraction": "0.5", "way": "0.5", "task": names[0]}
    wanted = [s for s in method.settings.values() if s.required or s.kind == "task"]
    needed = {s.name: words.get(s.kind, "1") for s in wanted}
    parts = [f"method: {method.name}", *(["base: base"] if base else [])]
    parts += [f"{name}: {value}" for name, value in needed.items()]
    return f"models: {{{models}}}\nmerge: {{{', '.join(parts)}}}"


def occasion(method: Method) -> str:
    """When to use a method, up to the first stop."""
    return re.split(r"[.:;](?:\s|$)|, (?:where|since|which|so that|and the)\b", method.when.removeprefix("Use it "))[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def count(method: Method) -> str:
    """How many models it merges."""
    least, most = method.models
    return str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"


def source(method: Method) -> str:
    """The paper, or the tool that it comes from."""
    return f"arXiv:{method.paper}" if method.paper[:4].isdigit() else method.paper


def default(setting: Setting) -> str:
    """A setting's default, as a recipe has it."""
    if setting.required:
        return "required"
    value = setting.default
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
