"""The files that both programs run: `$base`, `$a`, `$b`, `$c` and `$near` stand for the members of a family."""

from __future__ import annotations

from dataclasses import dataclass

from tests.parity.models import FAMILIES

FLOAT, BFLOAT = ("float32",), ("bfloat16",)
BOTH = FLOAT + BFLOAT


@dataclass(frozen=True)
class Case:
    """One mergekit file over one family in one precision."""

    name: str
    text: str
    family: str
    dtype: str

    @property
    def method(self) -> str:
        words = [line.split()[1] for line in self.text.splitlines() if line.startswith("merge_method:")]
        return " + ".join(dict.fromkeys(words))

    def meant_apart(self, tensor: str) -> bool:
        """Whether the two programs differ in a tensor on purpose: `differences` has a claim of it."""
        return self.family == "gemma2" and self.method == "slerp" and "norm" in tensor


def case(name: str, text: str, families: str = "llama", dtypes: tuple[str, ...] = FLOAT) -> list[Case]:
    return [Case(name, text, family, dtype) for family in families.split() for dtype in dtypes]


def two(method: str, *, top: str = "", parameters: str = "", own: str = "weight: 0.37|weight: 0.53") -> str:
    """A file that merges a and b: `own` holds their parameters, `|` between models."""
    lines = [f"merge_method: {method}", top, "dtype: $dtype", "models:"]
    for member, text in zip("abc", own.split("|"), strict=False):
        lines += [f"  - model: ${member}"] + ([f"    parameters: {{{text}}}"] if text.strip() else [])
    return "\n".join(line for line in [*lines, f"parameters: {{{parameters}}}"] if line) + "\n"


def based(method: str, parameters: str = "", own: str = "weight: 0.37|weight: 0.53", top: str = "") -> str:
    return two(method, top=f"base_model: $base\n{top}".strip(), parameters=parameters, own=own)


EVERY = " ".join(name for name in FAMILIES if name not in ("llama_bias", "deepseek_v3"))
DENSE = EVERY.replace(" mixtral", "")
BARE = " | "

LINEAR = [
    *case("two models", two("linear"), EVERY, BOTH),
    *case("three models", two("linear", own="weight: 1|weight: 2|weight: 0.5")),
    *case("normalize: false", two("linear", parameters="normalize: false")),
    *case("negative weight", two("linear", own="weight: 1.3|weight: -0.3")),
    *case("weights in quotes, 1e-1", two("linear", own="weight: '0.5'|weight: 1e-1")),
    *case(
        "gradient over depth",
        two("linear", own="weight: [0, 0.3, 1]|weight: [1, 0.2]"),
        "llama llama_tied qwen2",
    ),
    *case(
        "filters and gradients",
        two(
            "linear",
            own="weight: [{filter: mlp, value: [0.9, 0.1]}, {filter: layers.1., value: 0.7}, {value: 0.3}]"
            "|weight: {filter: '*', value: 0.4}",
        ),
    ),
    *case(
        "a bare filter falls through",
        two("linear", parameters="weight: 0.8", own="weight: {filter: q_proj, value: 0.1}|"),
    ),
    *case(
        "base_model joins the average",
        two("linear", top="base_model: $base", parameters="weight: 0.5", own=BARE),
    ),
    *case("base_model is listed", two("linear", top="base_model: $a")),
    *case("out_dtype: bfloat16", two("linear", top="out_dtype: bfloat16"), dtypes=BOTH),
    *case("tokenizer_source: base", two("linear", top="tokenizer_source: base\nbase_model: $a")),
    *case("tokenizer: {source: a model}", two("linear", top="tokenizer: {source: $b}")),
    *case(
        "modules",
        "merge_method: linear\ndtype: $dtype\nmodules:\n  default:\n    models:\n"
        "      - {model: $a, parameters: {weight: 0.2}}\n      - {model: $b}\n"
        "    parameters: {weight: {filter: norm, value: 0.9}}\nparameters: {weight: 0.6}\n",
    ),
    *case(
        "four levels",
        """merge_method: linear
dtype: $dtype
modules:
  default:
    slices:
      - sources:
          - {model: $a, layer_range: [0, 2], parameters: {weight: [{filter: q_proj, value: 0.1}]}}
          - {model: $b, layer_range: [0, 2], parameters: {weight: {filter: o_proj, value: 0.9}}}
        parameters: {weight: [{filter: k_proj, value: [0.2, 0.8]}]}
      - sources:
          - {model: $a, layer_range: [2, 4]}
          - {model: $b, layer_range: [2, 4], parameters: {weight: [0.4, 0.6]}}
    parameters: {weight: {filter: mlp, value: [0.7, 0.3]}}
parameters: {weight: 0.5, normalize: true}
""",
    ),
]

SPHERICAL = [
    *case("slerp", two("slerp", top="base_model: $a", parameters="t: 0.37", own=BARE), DENSE, BOTH),
    *case("base_model not listed", two("slerp", top="base_model: $base", parameters="t: 0.37", own="")),
    *case("base_model listed second", two("slerp", top="base_model: $b", parameters="t: 0.37", own=BARE)),
    *case(
        "nearly parallel",
        two("slerp", top="base_model: $base", parameters="t: 0.37", own="").replace("$a", "$near"),
    ),
    *case("t: 0", two("slerp", top="base_model: $a", parameters="t: 0", own=BARE)),
    *case(
        "gradients behind filters",
        two(
            "slerp",
            top="base_model: $a",
            parameters="t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, "
            "{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]",
            own=BARE,
        ),
        "llama llama_tied gemma2 phi3",
        BOTH,
    ),
    *case(
        "slices",
        "merge_method: slerp\nbase_model: $a\ndtype: $dtype\nslices:\n  - sources:\n"
        "      - {model: $a, layer_range: [0, 4]}\n      - {model: $b, layer_range: [0, 4]}\n"
        "parameters: {t: [0.1, 0.9]}\n",
    ),
    *case("nuslerp", two("nuslerp"), "llama qwen3", BOTH),
    *case("nuslerp: weights of any sum", two("nuslerp", own="weight: 3|weight: 1")),
    *case("nuslerp: weights that cancel", two("nuslerp", own="weight: 0.5|weight: -0.5")),
    *case("nuslerp: not flat", two("nuslerp", parameters="nuslerp_flatten: false"), dtypes=BOTH),
    *case(
        "nuslerp: row_wise",
        two("nuslerp", parameters="nuslerp_flatten: false, nuslerp_row_wise: true"),
        dtypes=BOTH,
    ),
    *case("nuslerp: with a base", based("nuslerp"), dtypes=BOTH),
    *case("nuslerp: with a base, not flat", based("nuslerp", "nuslerp_flatten: {filter: mlp, value: false}")),
    *case("multislerp", two("multislerp", own="weight: 0.3|weight: 0.5|weight: 0.4"), dtypes=BOTH),
    *case("multislerp: two models", two("multislerp", own="weight: [0.3, 0.6]|weight: 0.5")),
    *case(
        "multislerp: normalize_weights: false",
        two("multislerp", parameters="normalize_weights: false", own="weight: 0.3|weight: 0.5|weight: 0.4"),
    ),
    *case("multislerp: with a base", based("multislerp", own="weight: 0.3|weight: 0.5|weight: 0.4"), dtypes=BOTH),
    *case("karcher", two("karcher", own=BARE), "llama qwen2", BOTH),
    *case("karcher: three models", two("karcher", own=" | | "), dtypes=BOTH),
    *case("karcher: base_model is one more", two("karcher", top="base_model: $base", own=BARE)),
    *case("karcher: max_iter, tol", two("karcher", parameters="max_iter: 1, tol: 1e-9", own=" | | ")),
]

ARITHMETIC = [
    *case("task_arithmetic", based("task_arithmetic"), EVERY, BOTH),
    *case("task_arithmetic: lambda, normalize", based("task_arithmetic", "lambda: 0.7, normalize: true")),
    *case("task_arithmetic: lambda over depth", based("task_arithmetic", "lambda: [0.2, 1.4]")),
    *case("task_arithmetic: negative", based("task_arithmetic", own="weight: 1|weight: -0.4")),
    *case("ties", based("ties", "density: 0.5"), DENSE, BOTH),
    *case("ties: density 1 is the default", based("ties")),
    *case(
        "ties: density by model and depth",
        based("ties", own="weight: 0.37, density: [0.2, 0.7]|weight: 0.53, density: 0.4"),
    ),
    *case(
        "ties: normalize: false, lambda",
        based("ties", "density: 0.3, normalize: false, lambda: 1.3"),
        dtypes=BOTH,
    ),
    *case("ties: int8_mask", based("ties", "density: 0.3, int8_mask: true")),
    *case("ties: rescale", based("ties", "density: 0.3, rescale: true"), dtypes=BOTH),
    *case(
        "ties: three models",
        based("ties", "density: 0.5", own="weight: 0.37|weight: 0.53|weight: 0.29"),
        dtypes=BOTH,
    ),
    *case("ties: one model", based("ties", "density: 0.5", own="weight: 0.8")),
    *case(
        "ties: base listed, filters",
        "merge_method: ties\nbase_model: $base\ndtype: $dtype\nmodels:\n  - model: $base\n  - model: $a\n"
        "    parameters:\n      density: [{filter: mlp, value: 0.2}, {value: 0.6}]\n"
        "      weight: [{filter: embed, value: 0.1}, {value: [0.3, 0.9]}]\n"
        "  - {model: $b, parameters: {weight: 0.41}}\nparameters: {density: 0.5, normalize: true}\n",
    ),
    *case("dare_linear: density 1", based("dare_linear", "density: 1.0")),
    *case("dare_ties: density 1", based("dare_ties", "density: 1.0, normalize: true")),
    *case("della: density 1", based("della", "density: 1.0")),
    *case("della_linear: density 1", based("della_linear", "density: 1.0, lambda: 1.1")),
    *case("breadcrumbs", based("breadcrumbs", "density: 0.5, gamma: 0.1"), "llama qwen2", BOTH),
    *case("breadcrumbs: density 1 is the default", based("breadcrumbs", "gamma: 0.1")),
    *case("breadcrumbs: default gamma", based("breadcrumbs", "density: 0.4")),
    *case("breadcrumbs: gamma 0", based("breadcrumbs", "density: 0.4, gamma: 0")),
    *case("breadcrumbs: density + gamma over 1", based("breadcrumbs", "density: 0.8, gamma: 0.4")),
    *case("breadcrumbs: rescale", based("breadcrumbs", "density: 0.4, rescale: true, normalize: true")),
    *case("breadcrumbs_ties", based("breadcrumbs_ties", "density: 0.5, gamma: 0.1"), dtypes=BOTH),
    *case(
        "breadcrumbs_ties: normalize",
        based("breadcrumbs_ties", "density: 0.3, gamma: 0.1, normalize: true, lambda: 0.9"),
    ),
]

OTHER = [
    *case("model_stock", based("model_stock", own=BARE), "llama qwen3", BOTH),
    *case("model_stock: three models", based("model_stock", own=" | | "), dtypes=BOTH),
    *case("model_stock: filter_wise", based("model_stock", "filter_wise: true", own=BARE), dtypes=BOTH),
    *case("model_stock: filter_wise, three models", based("model_stock", "filter_wise: true", own=" | | ")),
    *case("sce", based("sce", own=" | | "), "llama qwen2", BOTH),
    *case("sce: select_topk", based("sce", "select_topk: 0.5", own=" | | "), dtypes=BOTH),
    *case("sce: select_topk over depth", based("sce", "select_topk: [0.1, 0.9]", own=BARE)),
    *case("sce: one model", based("sce", own=" ")),
    *case("nearswap", based("nearswap", "t: 0.004", own=" "), "llama gemma2", BOTH),
    *case("nearswap: t over depth", based("nearswap", "t: [0.001, 0.02]", own=" ")),
    *case("arcee_fusion", based("arcee_fusion", own=" "), "llama qwen2"),
    *case("ram", based("ram", "epsilon: 0.005", own=" | | "), dtypes=BOTH),
    *case("ram: default epsilon", based("ram", own=BARE)),
    *case(
        "ramplus_tl",
        based("ramplus_tl", "epsilon: 0.005, r: 0.3, alpha: 0.7", own=" | | ", top="out_dtype: $dtype"),
        dtypes=BOTH,
    ),
    *case("ramplus_tl: defaults", based("ramplus_tl", "epsilon: 0.01", own=BARE)),
    *case("passthrough", two("passthrough", own=" "), EVERY, BOTH),
    *case("passthrough: scale", two("passthrough", own="scale: 0.7"), dtypes=BOTH),
    *case(
        "passthrough: scale with filters",
        two(
            "passthrough",
            own="scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: [0.2, 1.7]}, {value: 1.1}]",
        ),
    ),
]


SAME = [*LINEAR, *SPHERICAL, *ARITHMETIC, *OTHER]


@dataclass(frozen=True)
class Drawn:
    """A random method with one model of weight 1: what it keeps can be counted."""

    method: str
    density: float
    epsilon: float | None = None

    @property
    def text(self) -> str:
        own = f"weight: 1, density: {self.density}" + (f", epsilon: {self.epsilon}" if self.epsilon else "")
        return based(self.method, "normalize: false", own=own)


DRAWN = [
    Drawn("dare_linear", 0.3),
    Drawn("dare_linear", 0.8),
    Drawn("dare_ties", 0.5),
    Drawn("della_linear", 0.5, 0.3),
    Drawn("della", 0.4, 0.15),
]
