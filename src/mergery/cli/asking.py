"""How models are asked, for the commands that choose by scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from mergery.evaluation import EvaluationOptions

Tasks = Annotated[
    tuple[Path, ...],
    Parameter(consume_multiple=True, help="Task files: JSON objects, one a line (see docs/evaluation.md)."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Asking:
    """Options of the evaluation."""

    chat: Annotated[bool, Parameter(help="Put prompts through the tokenizer's chat template.")] = False
    batch: Annotated[int, Parameter(help="Rows at once. It changes the speed, not the scores.")] = 32
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Parameter(help="Of the weights in memory.")] = "float32"
    longest: Annotated[
        int | None, Parameter(help="Tokens that the model is given at once; what its config says, where not given.")
    ] = None
    device: Annotated[str, Parameter(help="Such as cpu or cuda:0; auto is the first GPU where there is one.")] = "auto"
    threads: Annotated[int, Parameter(help="Threads of torch; 0 takes one for each core.")] = 0
    tokenizer: Annotated[Path | None, Parameter(help="A folder with a tokenizer, instead of the model's own.")] = None

    @property
    def options(self) -> EvaluationOptions:
        """The same for the library. Raises RecipeError."""
        from mergery.evaluation import EvaluationOptions

        return EvaluationOptions(self.batch, self.chat, self.dtype, self.longest, self.threads, self.device)
