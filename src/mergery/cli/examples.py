"""An example or two of every command, for its help and for the page of reference."""

from __future__ import annotations

DOCS = "https://github.com/mergery/mergery/blob/main/docs"

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "merge": (
        ("mergery merge recipe.yaml merged", "merge, and write the folder merged"),
        ("mergery merge recipe.yaml merged --dry-run", "only say what would be done"),
        ("mergery merge recipe.yaml merged --set merge.density=0.3", "with another value than the recipe's"),
        ("mergery merge recipe.yaml part --only layers.0-1 --only embed", "try a recipe on two layers"),
    ),
    "plan": (
        ("mergery plan recipe.yaml", "what each tensor gets, and what it costs"),
        ("mergery plan recipe.yaml merged", "and whether the folder merged can be written"),
        ("mergery plan recipe.yaml --graph model.norm.weight", "how one tensor comes to be"),
    ),
    "methods": (
        ("mergery methods", "the methods to know first"),
        ("mergery methods --all", "all of them, in groups"),
        ("mergery methods ties", "what a method computes, its settings, an example"),
    ),
    "inspect": (
        ("mergery inspect llama-math", "what a model is"),
        ("mergery inspect llama-math org/llama-code", "and whether another can be merged with it"),
        ("mergery inspect llama-math --memory", "and what it takes to run it: formats, contexts, machines"),
    ),
    "push": (
        ("mergery push merged my-name/my-merge", "put a merged model and its card on the hub"),
        ("mergery push merged my-name/my-merge --private --dry-run", "say what would be sent"),
    ),
    "verify": (
        ("mergery verify merged", "whether anything has changed since the merge"),
        ("mergery verify merged --sample 20", "and whether 20 tensors come out the same again"),
        ("mergery verify merged --base llama --adapter math-lora", "whether another tool has merged an adapter right"),
    ),
    "evaluate": (
        ("mergery evaluate merged --tasks questions.jsonl", "score a model"),
        ("mergery evaluate recipe.yaml --tasks questions.jsonl", "score a merge without writing it"),
    ),
    "compare": (
        (
            "mergery compare merged llama-math llama-code --tasks questions.jsonl",
            "evaluate, and compare with the first",
        ),
        ("mergery compare merged --parents llama-math llama-code --tasks questions.jsonl", "what the merge has lost"),
    ),
    "auto": (
        ("mergery auto llama math code --tasks questions.jsonl --out chosen", "whether to merge, and how"),
        ("mergery auto llama math code --tasks questions.jsonl --out chosen --budget 2h", "with more time"),
    ),
    "search": (
        ("mergery search recipe.yaml found --tasks questions.jsonl", "find what the recipe leaves open"),
        ("mergery search recipe.yaml found --tasks questions.jsonl --trials 300", "go on with the same search"),
        ("mergery merge found/recipe.yaml merged", "write the model that was found"),
    ),
    "flow": (
        ("mergery flow math chat --tasks questions.jsonl --out path", "layers of both, in a better order"),
        ("mergery flow math --tasks questions.jsonl --out path --repeats 1", "which layers can be left out"),
    ),
    "diagnose": (
        ("mergery diagnose llama-math llama-law", "may these be merged, and if not, what else"),
        ("mergery diagnose llama llama-2 --json", "the same for a program"),
    ),
    "rebase": (
        ("mergery rebase llama-math moved --from llama --to llama-2", "a fine-tune on a new release of its base"),
        ("mergery rebase llama-math moved --from llama --to llama-2 --tasks quiz.jsonl", "and how much is left of it"),
        ("mergery rebase llama-math moved --from llama --to llama-2 --way theseus --data texts.jsonl", "through maps"),
    ),
    "transport": (
        (
            "mergery transport llama-8b out --into llama-1b --data texts.jsonl",
            "a large model's knowledge in a small one",
        ),
        ("mergery transport llama-8b out --into llama-1b --data texts.jsonl --dry-run", "what that takes"),
    ),
    "fuse": (
        ("mergery fuse small fused --teachers large other --data texts.jsonl", "what others expect, taught to a model"),
        ("mergery fuse small out --teachers math code --data texts.jsonl --pairwise sce", "FuseChat: fuse, then merge"),
        ("mergery fuse small fused --teachers large --data texts.jsonl --dry-run", "steps, memory, disk and time"),
    ),
    "align": (
        ("mergery align llama-2 matched --to llama", "a model from another seed, in the coordinates of the first"),
        (
            "mergery align llama-2 matched --to llama --spaces mlp heads --check",
            "some of them, and the answers compared",
        ),
    ),
    "soup": (
        ("mergery soup greedy math code chat --tasks questions.jsonl --out soup", "keep what the average gains by"),
        ("mergery soup soce math code chat --tasks questions.jsonl --out soup", "experts of categories, best weights"),
        ("mergery soup soce --scores table.csv", "choose the experts from a table of scores"),
    ),
    "calibrate": (
        ("mergery calibrate llama-math --data texts.jsonl math-stats", "what the model's weights are multiplied with"),
        (
            "mergery calibrate llama-math --data texts.jsonl --stats fisher math-fisher",
            "which weights its text rests on",
        ),
    ),
    "learn": (
        ("mergery learn recipe.yaml learned.yaml --data texts.jsonl", "weights for each tensor, by the least entropy"),
        (
            "mergery learn recipe.yaml learned.yaml --data math=quiz.jsonl --data code=facts.jsonl --objective labels",
            "by what each model should answer",
        ),
    ),
    "anchors": (("mergery anchors recipe.yaml anchors", "made-up inputs that stand for what each model has learnt"),),
    "anchors inspect": (
        ("mergery anchors inspect recipe.yaml anchors --plot anchors.png", "their spectra, and what they keep"),
    ),
    "refine": (("mergery refine recipe.yaml anchors merged", "the recipe's merge, refined on them"),),
    "pack": (
        ("mergery pack recipe.yaml packed", "keep the models of all tasks beside their base"),
        ("mergery pack recipe.yaml packed --dry-run", "only say how much that takes"),
    ),
    "export gguf": (
        ("mergery export gguf merged merged.gguf --type q8_0", "a model as one file, in eight bits"),
        ("mergery export gguf recipe.yaml merged.gguf", "a merge straight into the file, with no folder between"),
        (
            "mergery export gguf merged q4.gguf -t q4_k_m --imatrix merged-stats",
            "in four bits, spent where data need them",
        ),
    ),
    "export imatrix": (
        ("mergery export imatrix merged merged-stats imatrix.gguf", "what was measured, for llama.cpp's quantiser"),
    ),
    "export quantized": (
        (
            "mergery export quantized merged merged-w8 --scheme w8a16",
            "a model in eight bits, for vLLM and transformers",
        ),
        (
            "mergery export quantized recipe.yaml merged-w4 --scheme w4a16-gptq --data texts.jsonl",
            "a merge in four bits, rounded by what data tell",
        ),
    ),
    "vocabulary transplant": (
        ("mergery vocabulary transplant llama-math out --from llama-code", "give a model another one's tokenizer"),
    ),
    "adapter bake": (("mergery adapter bake llama math-lora baked", "the model that an adapter makes of its base"),),
    "adapter merge": (
        ("mergery adapter merge math-lora code-lora --out both", "one adapter, exactly the sum of both"),
        ("mergery adapter merge math-lora code-lora --out both --rank 16", "of rank 16, small adapters kept"),
    ),
    "adapter extract": (
        ("mergery adapter extract llama-math out --base llama --rank 16", "what a fine-tune has learnt, in rank 16"),
        (
            "mergery adapter extract llama-math out --base llama --energy 0.9",
            "in the ranks that hold nine tenths of it",
        ),
    ),
    "import": (("mergery import mergekit.yml > recipe.yaml", "a mergekit file as a recipe of Mergery's own"),),
    "schema": (("mergery schema > recipe.schema.json", "for an editor that completes and checks recipes"),),
    "doctor": (("mergery doctor", "what this machine has for merging, and what is missing"),),
    "completion": (
        ("source <(mergery completion bash)", "in ~/.bashrc"),
        ("source <(mergery completion zsh)", "in ~/.zshrc, after compinit"),
        ("mergery completion fish | source", "in ~/.config/fish/config.fish"),
    ),
}
"""By command: what one types, and what it is for."""
OPTIONAL = {
    "plan": "RECIPE [OUT]",
    "methods": "[NAME]",
    "inspect": "CHECKPOINT [OTHERS...]",
    "compare": "MODELS...",
}
"""What stands before the options of commands that can do without some of it."""


def members(command: str) -> str:
    """What stands at the end of the help of a command that is only a name for several."""
    return f"`mergery {command} COMMAND --help` says what one takes, with examples.\nMore: {DOCS}/command-line.md"


def epilogue(command: str) -> str:
    """What stands at the end of a command's help."""
    rows = EXAMPLES[command]
    lines = [line for typed, meant in rows for line in (f"  {typed}", f"      {meant}")]
    return "\n".join(["Examples:", "", *lines, "", f"More: {DOCS}/command-line.md"])
