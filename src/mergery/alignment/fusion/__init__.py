"""Fusion by distillation: what models of other shapes and vocabularies foretell of a text, taught to one model.

    mergery.fuse("small", ["other", "third"], "texts.jsonl", "fused")

    distances   how many letters two texts are apart
    passages    the texts of a file, whole
    pieces      a text in the tokens of one model, and where each begins and ends
    warping     tokens of two models matched: by the letters at which they begin, or by dynamic time warping
    mapping     a token of one vocabulary as a token of another
    teaching    a teacher's distributions, stored on disk in the target's tokens
    training    the target, trained on texts and distributions by transformers' own loop

Wan et al. 2024 (FuseLLM, arXiv 2401.10491; FuseChat, arXiv 2408.07990).
"""
