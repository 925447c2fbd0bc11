# ruff: noqa: E501 - tables of odd values
"""Recipes and mergekit files."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.fuzz.damage import NAMES, NUMBERS, noise, sometimes, spoil

METHODS = (
    "linear", "slerp", "ties", "dare_ties", "task_arithmetic", "model_stock", "passthrough", "della", "karcher", "sce",
    "nuslerp", "breadcrumbs", "nearswap", "multislerp", "arcee_fusion", "ram", "nothing", "pcb", "emr", "negation",
    "onebit", "run_average", "geometric_median", "neuromerging",
)  # fmt: skip
SETTINGS = (
    "weight",
    "density",
    "t",
    "scale",
    "normalize",
    "gamma",
    "epsilon",
    "lambda",
    "int8_mask",
    "scope",
    "rescale",
    "x",
    "task",
    "by",
    "last",
    "k",
)
SCALARS: tuple[Any, ...] = (
    *NUMBERS, 0.5, "word", [0, 1], [0.0, True], [{"value": 0.5}], [{"where": {"role": "mlp", "layers": "0-1"}, "value": 1}],
    {"a": 0.5, "b": [0, 1]}, {"gradient": [0, 1], "outside": "first"}, [{"filter": "mlp", "value": [0, 1]}, {"value": 0.2}],
    [{"where": {"role": 5}, "value": 1}], [{"where": {"layers": "9" * 5000}, "value": 1}], {"a": {"a": {"a": 1}}},
    [{"where": {"name": "[!*?" * 20}, "value": 1}], [10**400, 0], "9" * 400,
)  # fmt: skip


def native(chance: random.Random) -> Any:
    """A recipe, mostly sound, as plain data."""
    models: dict[str, Any] = {"base": "./base", "a": "./a", "b": "./b"}
    if chance.random() < 0.2:
        models["c"] = {"path": chance.choice(("./a", *NAMES)), "revision": chance.choice(("v1", None, 3))}
        models["c"] |= chance.choice(({}, {"task": "a"}, {"task": 3}))
    if chance.random() < 0.1:
        models["r"] = chance.choice(("./*", "./[ab]", "*", "[", "./a*\0", "~/x*", "./run/step-?", "**/" * 3))
    if chance.random() < 0.2:
        models["s"] = {"method": chance.choice(METHODS), "models": ["a", chance.choice(("b", "s", "a", "z"))], "t": 0.5}
    merge: dict[str, Any] = {"method": chance.choice(METHODS), "base": "base"}
    for _ in range(chance.randrange(3)):
        merge[chance.choice(SETTINGS)] = chance.choice((0.5, [0, 1], chance.choice(SCALARS)))
    if chance.random() < 0.2:
        layers = chance.choice(("0-1", 0, "1", "1-0", "9" * 5000, "0-99999999999999999999", [0, 1], -1, "0-1-2"))
        merge["stack"] = [
            {"models": {"a": "0-1", "b": layers}, "base": chance.choice(("a", "b", "z"))},
            {"models": {"a": layers}},
        ]
    result: dict[str, Any] = {"models": models, "merge": merge}
    if chance.random() < 0.3:
        result["output"] = {
            "dtype": chance.choice(("bfloat16", "float16", "x", ["float16"], {"a": 1})),
            "shard_size": chance.choice(("1kB", "5GB", "9" * 400, "0", "1.5.5GB", "-1", 10**30, "٣GB")),
            "config": chance.choice(("a", "z", ["a"], None)),
        }
    if chance.random() < 0.1:
        result["seed"] = chance.choice(NUMBERS)
        result["drop"] = chance.choice((["*"], ["[z-a]", "[", "*a*" * 400], "x", [1], ["model.layers.*"]))
    return result


def mergekit(chance: random.Random) -> Any:
    """A mergekit file, mostly sound, as plain data."""
    parameters: dict[str, Any] = {"t": 0.5, "weight": 0.5}
    for _ in range(chance.randrange(3)):
        parameters[chance.choice(SETTINGS[:-1])] = chance.choice((0.5, 1, [0, 1], chance.choice(SCALARS)))
    result: dict[str, Any] = {"merge_method": chance.choice(METHODS), "parameters": parameters}
    models = [
        {"model": f"./{name}", "parameters": {"weight": chance.choice((0.5, 1, [0.5, 1], chance.choice(SCALARS)))}}
        for name in ("a", "b")
    ]
    if chance.random() < 0.2:
        path = chance.choice(
            (*NAMES, "a@b+c", "a@b@c", "./a@v1", {"model": {"path": "./a", "revision": 3}}, {"model": []})
        )
        models.append({"model": path})
    roll = chance.random()
    if roll < 0.6:
        result["models"] = models
    else:
        ranges = chance.choice(([0, 2], [0, 10**400], [1, 0], ["0", "2"], [0, 2**62], [0, 1, 2], None))
        result["slices"] = [
            {"sources": [{**model, "layer_range": chance.choice((ranges, [0, 2]))} for model in models]}
        ]
        if roll > 0.9:
            result = {**result, "modules": {"default": {"slices": result.pop("slices")}}}
    if chance.random() < 0.7:
        result["base_model"] = chance.choice(("./base", "./base", "./a", "~nobody/x", "\0", "a" * 5000))
    for key, values in {
        "dtype": ("bfloat16", "torch.float16", 16, ["float16"]), "random_seed": NUMBERS, "name": NAMES,
        "tokenizer_source": ("union", "base", "./a", "model:x", 3), "tokenizer": ({"source": {"model": "./a"}}, {"tokens": {"a": 1}}),
        "chat_template": ("auto", "chatml", 3), "x": (1,),
    }.items():  # fmt: skip
        if chance.random() < 0.08:
            result[key] = chance.choice(values)
    return result


def bomb(chance: random.Random) -> str:
    """YAML that is small and explodes, or is deep, or slow."""
    size = chance.choice((20, 64, 999, 3000))
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    stages = "".join(
        f"  s{n}: {{method: linear, models: [{', '.join(['a', *(f's{m}' for m in range(n))])}]}}\n" for n in range(28)
    )
    chain = "".join(f"  s{n}: {{method: linear, models: [a, s{n + 1}]}}\n" for n in range(size))
    return chance.choice((
        "\n".join(lines), "[" * size, "- " * size + "a", "{a: " * size, "? " * size, "&a [*a]", "a: &a {b: *a}", "!" * size,
        "\n".join(" " * n + "a:" for n in range(min(size, 200))), "%YAML 9.9\n---\na", "%TAG ! a:\n---\n!x a", "--- \n" * size,
        "models: {a: ./a, b: ./b}\nmerge: !!python/object/apply:os.system ['touch /evil']\n", "a: !!python/name:os.system\n",
        "x: !!binary aGVsbG8=\n", "x: !!set {a, b}\n", "<<: {a: 1}\n", "? [a]\n: 1\n", "a: 1\na: 2\n", "2001-01-01: x\n",
        "models:\n  a: ./a\n" + stages + "merge: {method: linear, models: [a, s27]}\n",
        f"models:\n  a: ./a\n  s{size}: ./b\n" + chain + "merge: {method: linear, models: [a, s0]}\n",
        "models: {" + ", ".join(f"a{n}: ./a" for n in range(min(size, 500))) + "}\nmerge: {method: linear}\n",
        "merge:\n  method: linear\n" + "".join(f"  weigth{n}: 1\n" for n in range(size)),
        "merge_method: linear\nmodels:\n" + "- {model: ./a, parameters: {weight: x}}\n" * size,
        "merge: {method: " + "x" * size * 30 + "}\n", "x: " + "9" * size + "\n", "x: -0x" + "f" * size + "\n", "x: 1:30:99\n",
        'models: {a: "\\0", b: "\\ud800"}\nmerge: {method: linear}\n', 'x: "\\U0010ffff\\udfff"\n', "x: 0b\n", "x: 0o9\n", "x: _\n",
        "---\n---\nmerge_method: linear\n", "merge_method: linear\n---\n[]\n", "merge_method: {}\n", "~\n", "x: .inf\n", "x: 1e999\n",
    ))  # fmt: skip


def as_yaml(chance: random.Random, value: Any) -> bytes:
    import yaml

    try:
        text = yaml.dump(
            value,
            Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
            sort_keys=False,
            allow_unicode=chance.random() < 0.5,
            default_flow_style=chance.random() < 0.3,
        )
    except ValueError:  # an int that is too long to print
        text = "models: {}"
    return sometimes(chance, text.encode("utf-8", "surrogatepass"), 0.15)


def recipe_text(chance: random.Random, make_plain: Callable[[random.Random], Any]) -> bytes:
    roll = chance.random()
    if roll < 0.04:
        return noise(chance)
    if roll < 0.14:
        return bomb(chance).encode("utf-8", "surrogatepass")
    plain = make_plain(chance)
    if roll < 0.5:
        plain = spoil(chance, plain, chance.choice((0.02, 0.05, 0.2)))
    if roll > 0.97:
        return as_yaml(chance, plain) + b"---\n" + as_yaml(chance, make_plain(chance))
    return as_yaml(chance, plain)
