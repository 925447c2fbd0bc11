"""The merges whose results are pinned, as recipes over the models of `tests.golden.models`.

A recipe stands in the folder of its models: `Case("llama", "base a b", "merge: ...")` merges `llama/base`, `llama/a` and
`llama/b`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One recipe: the folder of its models, their names, and all that follows `models`."""

    kind: str
    models: str
    text: str
    stages: str = ""  # further models, which are merges of others

    def write(self, models: Path, name: str) -> Path:
        """The recipe's file, beside the models."""
        lines = [f"  {each}: ./{each}" for each in self.models.split()]
        path = models / self.kind / f"{name}.yaml"
        path.write_text("\n".join(["models:", *lines, *self.stages.strip("\n").splitlines(), self.text.strip()]) + "\n")
        return path


ALL = "base a b c"

EXACT = {
    "linear": Case("llama", "a b c", "merge: {method: linear, weight: {a: 1.0, b: 0.5, c: 0.25}}"),
    "linear, not normalised, in bfloat16": Case(
        "llama",
        "a b",
        "merge: {method: linear, weight: {a: 0.7, b: 0.4}, normalize: false}\noutput: {dtype: bfloat16, shard_size: 200KB}",
    ),
    "linear of bfloat16": Case("brain", "a b c", "merge: {method: linear}"),
    "linear of float16": Case("half", "a b c", "merge: {method: linear, weight: {a: 3, b: 2, c: 1}}"),
    "linear of bfloat16 in float32": Case("brain", "a b", "merge: {method: linear}\noutput: {dtype: float32}"),
    "linear by role and depth": Case(
        "llama",
        "a b",
        """
merge:
  method: linear
  weight:
    a: [0.0, 0.5, 1.0]
    b: [{where: {role: mlp, layers: 0-1}, value: 0.1}, {where: {role: attention.q}, value: 0.3}, {value: 0.2}]
""",
    ),
    "slerp": Case("llama", "a b", "merge: {method: slerp, t: 0.3}"),
    "slerp by row, of three, in float16": Case(
        "half", "a b c", "merge: {method: slerp, scope: row, weight: {a: 1, b: 2, c: 3}, tree: balanced}"
    ),
    "slerp with a gradient": Case("brain", "a b", "merge: {method: slerp, t: [0.0, 0.7, 1.0]}"),
    "nuslerp of task vectors": Case(
        "llama", "base a b", "merge: {method: nuslerp, base: base, weight: {a: 0.6, b: 0.4}}"
    ),
    "task_arithmetic": Case(
        "llama", ALL, "merge: {method: task_arithmetic, base: base, weight: {a: 0.6, b: 0.3, c: -0.2}, scale: 0.9}"
    ),
    "task_arithmetic of bfloat16": Case("brain", ALL, "merge: {method: task_arithmetic, base: base, scale: 0.4}"),
    "ties over the model": Case("llama", ALL, "merge: {method: ties, base: base, density: 0.3}"),
    "ties by tensor": Case(
        "llama", ALL, "merge: {method: ties, base: base, scope: tensor, density: {a: 0.5, b: 0.3, c: 0.2}, scale: 0.8}"
    ),
    "ties of float16, majority": Case(
        "half", ALL, "merge: {method: ties, base: base, zero: majority, keep: one_more, function: sum, rescale: none}"
    ),
    "ties of bfloat16": Case(
        "brain", ALL, "merge: {method: ties, base: base, density: 0.5, weight: {a: 1, b: 2, c: 1}}"
    ),
    "dare_ties": Case("llama", ALL, "merge: {method: dare_ties, base: base, density: 0.4}\nseed: 7"),
    "dare_ties of bfloat16, l1": Case(
        "brain", ALL, "merge: {method: dare_ties, base: base, density: 0.4, rescale: l1, normalize: false}\nseed: 7"
    ),
    "dare_linear": Case("llama", ALL, "merge: {method: dare_linear, base: base, density: 0.5}\nseed: 12345678901"),
    "della": Case("llama", ALL, "merge: {method: della, base: base, density: 0.6, window: 0.2}\nseed: 3"),
    "breadcrumbs": Case("llama", ALL, "merge: {method: breadcrumbs, base: base}"),
    "model_stock": Case("llama", ALL, "merge: {method: model_stock, base: base}"),
    "model_stock by row": Case("brain", ALL, "merge: {method: model_stock, base: base, scope: row}"),
    "emr": Case("llama", ALL, "merge: {method: emr, base: base, task: b}"),
    "trust_region": Case("llama", ALL, "merge: {method: trust_region, base: base, drop: 0.1}"),
    "consensus": Case("llama", ALL, "merge: {method: consensus, base: base, vector: ties}"),
    "sce": Case("llama", ALL, "merge: {method: sce, base: base}"),
    "parts and what is taken": Case(
        "llama",
        "base a b",
        """
merge:
  method: task_arithmetic
  base: base
  scale: 0.5
  parts:
    - {where: {role: [embed, head]}, take: base}
    - {where: {role: attention, layers: 0-1}, method: ties, density: 0.3}
    - {where: {role: norm}, method: linear}
""",
    ),
    "fused qkv by role": Case(
        "phi3",
        "base a b",
        """
merge:
  method: ties
  base: base
  scope: tensor
  density: [{where: {role: attention.q}, value: 0.2}, {where: {role: attention.v}, value: 0.9}, {value: 0.5}]
  weight: [{where: {role: mlp.up}, value: 0.25}, {value: 1.0}]
""",
    ),
    "fused experts by role": Case(
        "mixtral",
        "base a b",
        """
merge:
  method: dare_ties
  base: base
  density: [{where: {role: expert, layers: 0}, value: 0.3}, {where: {role: router}, value: 1.0}, {value: 0.6}]
  parts: [{where: {role: mlp.gate}, take: a}]
seed: 5
""",
    ),
    "a merge of a merge": Case(
        "llama",
        ALL,
        "merge: {method: ties, base: base, models: [blend, c], density: 0.4}",
        stages="  blend: {method: slerp, models: [a, b], t: 0.4}",
    ),
    "a stack with scales": Case(
        "llama",
        "base a",
        """
merge:
  method: passthrough
  stack:
    - models: {base: 0-2}
    - models: {a: 1-3}
      scale: [{where: {role: [attention.o, mlp.down]}, value: 0.5}, {value: 1.0}]
""",
    ),
    "a stack with a merged slice": Case(
        "brain",
        "base a b",
        """
merge:
  method: slerp
  t: 0.6
  stack:
    - models: {base: 0-1, a: 0-1}
    - {models: {a: 1-3, b: 1-3}, t: [0.2, 0.9]}
""",
    ),
    "new layers that add nothing": Case("llama", "base", "merge: {stack: {insert: base, every: 2}}"),
    "the union of words": Case(
        "words",
        "base chat",
        "merge: {method: linear, weight: {base: 0.25, chat: 0.75}}\noutput: {tokenizer: union}",
    ),
    "the union of pairs": Case(
        "pairs",
        "base chat",
        """
merge: {method: task_arithmetic, base: base, models: [chat], scale: 0.5}
vocabulary: {from: union, tokens: {"<tool>": {like: "<|im_start|>", of: chat}}, pad_to_multiple_of: 8, unknown: zero}
""",
    ),
    "another's words": Case(
        "words", "base chat", "merge: {method: slerp, models: [base, chat], t: 0.5}\noutput: {tokenizer: chat}"
    ),
}

PACKED = {  # what is packed, and then the merge of one of its tasks
    "emr": Case("llama", ALL, "merge: {method: emr, base: base}"),
    "tall_mask": Case("llama", ALL, "merge: {method: tall_mask, base: base, vector: ties}"),
    "onebit": Case("llama", ALL, "merge: {method: onebit, base: base, scope: row}"),
}

CLOSE = {
    "tsv_merge": Case("llama", ALL, "merge: {method: tsv_merge, base: base}"),
    "iso_c": Case("llama", ALL, "merge: {method: iso_c, base: base, preset: paper}"),
    "iso_cts": Case("llama", ALL, "merge: {method: iso_cts, base: base}"),
    "wudi, closed": Case("llama", ALL, "merge: {method: wudi, base: base, solver: closed}"),
    "wudi, adam": Case("llama", ALL, "merge: {method: wudi, base: base, steps: 50, rate: 1.0e-4}"),
    "swudi": Case("llama", ALL, "merge: {method: swudi, base: base, weight: {a: 1.0, b: 0.5, c: 0.5}}"),
    "swudi_a": Case("llama", ALL, "merge: {method: swudi_a, base: base}"),
    "subspace_boosting": Case("llama", ALL, "merge: {method: subspace_boosting, base: base}"),
    "pcb": Case("llama", ALL, "merge: {method: pcb, base: base, density: 0.3}"),
    "iso_c of fused qkv": Case(
        "phi3",
        "base a b",
        """
merge:
  method: iso_c
  base: base
  scale: [{where: {role: attention.q}, value: 0.5}, {value: 1.0}]
  parts: [{where: {role: attention.k, layers: 1}, take: a}]
""",
    ),
    "tsv_merge of fused experts": Case(
        "mixtral",
        "base a b",
        "merge: {method: tsv_merge, base: base, rest: {method: ties, density: 0.5, scope: tensor}}",
    ),
}

PLANS = {
    "two averages": EXACT["linear, not normalised, in bfloat16"],
    "a stage": EXACT["a merge of a merge"],
    "fused experts": CLOSE["tsv_merge of fused experts"],
    "fused qkv": EXACT["fused qkv by role"],
    "a stack": EXACT["a stack with scales"],
    "a vocabulary": EXACT["the union of pairs"],
}
