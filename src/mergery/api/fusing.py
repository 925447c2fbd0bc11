"""Fuse models of other shapes and vocabularies by distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.report.notebook import listening
from mergery.run.events import Notify

if TYPE_CHECKING:
    from mergery.alignment.fusion.foretelling import Outlook
    from mergery.alignment.fusion.options import FuseOptions


def fuse(
    target: Any,
    teachers: Sequence[Any],
    data: str | Path,
    out: str | Path,
    *,
    options: FuseOptions | None = None,
    pairwise: str | None = None,
    store: str | Path | None = None,
    restart: bool = False,
    on_event: Notify | None = None,
) -> Path:
    """Teach a language model what others expect of texts, whatever their architectures and tokenizers, and write it.

    target:   a model folder, a GGUF file, `model+adapter`, or a recipe, which is merged in memory. It keeps its tokenizer.
    teachers: the same, each of any size and vocabulary. They are asked one after the other; what they expect is stored.
    data:     a task file (.jsonl: texts, or prompts with answers, of which the answers are learnt), or plain text.
    options:  how; the defaults are FuseLLM's.
    pairwise: a method, such as `sce`: each teacher is fused into a student of its own, and these are merged with the target
              as base (FuseChat). `out` then holds `students`, `recipe.yaml` and `merged`.
    store:    a folder in which the distributions are kept, for other runs on the same data; they are removed otherwise.
    restart:  throw away what an interrupted run has left, which is taken up otherwise.

    Returns the model's folder. Raises MergeryError. Wan et al. 2024 (arXiv 2401.10491, 2408.07990).
    """
    from mergery.alignment.fusion.options import FuseOptions
    from mergery.alignment.fusion.pairwise import fuse_pairwise
    from mergery.alignment.fusion.running import fuse

    wanted = options or FuseOptions()
    with listening(on_event) as notify:
        if pairwise is None:
            return fuse(target, teachers, data, out, options=wanted, notify=notify, store=store, restart=restart)
        return fuse_pairwise(
            target, teachers, data, out, method=pairwise, options=wanted, notify=notify, store=store, restart=restart
        )


def foretell_fusion(
    target: Any, teachers: Sequence[Any], data: str | Path, *, options: FuseOptions | None = None
) -> Outlook:
    """What a fusion would take: steps, memory, disk and time. Nothing is written. Raises MergeryError."""
    from mergery.alignment.fusion.foretelling import foretell
    from mergery.alignment.fusion.options import FuseOptions
    from mergery.alignment.fusion.preparing import prepare

    return foretell(prepare(target, teachers, data, options or FuseOptions()))
