"""`mergery export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from mergery.cli.common import COMMANDS, MERGING, OPTIONS, Quiet, Writing, flowing, wait_without_spinning
from mergery.cli.examples import epilogue, members


def schemes(context: Any) -> list[tuple[str, str]]:
    """The schemes and what they are, for a shell that completes them."""
    from mergery.checkpoints.quantised.writing import SCHEMES

    return [(scheme.name, scheme.words) for scheme in SCHEMES.values()]


app = App(
    name="export",
    help="Write a model for another program.",
    help_format="plaintext",
    group=MERGING,
    sort_key=8,
    group_parameters=OPTIONS,
    group_commands=COMMANDS,
    help_epilogue=members("export"),
)


@app.command(help_epilogue=epilogue("export gguf"))
@flowing
def gguf(
    model: str,
    out: Path,
    /,
    *,
    type: Annotated[str, Parameter(name=("--type", "-t"))] = "f16",
    pre: str | None = None,
    imatrix: Path | None = None,
    writing: Writing = Writing(),
) -> None:
    """Write MODEL, or what a recipe merges, as the file OUT for llama.cpp, Ollama and LM Studio.

    A recipe's merge goes straight into the file: no folder is written. Tokenizer, added tokens and chat template go with it.
    What llama.cpp would compute otherwise is refused. Run the same command again after an interruption and it goes on.

    Parameters
    ----------
    model
        A model folder, a weight file, a GGUF file, a hub id, or a recipe (a YAML file).
    out
        The file to write, named .gguf.
    type
        Of matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, tq2_0, tq1_0. Vectors are float32; of the coarse types, head
        and embeddings get a finer one. q4_k_m and the other K-quants need the package llama-cpp-python.
    pre
        llama.cpp's word for how the tokenizer cuts text, such as llama-bpe, where Mergery does not find it.
    imatrix
        Which columns count, for the types that llama.cpp makes: statistics of `mergery calibrate`, or a file of llama.cpp's.
    """
    from mergery import api

    with writing.reporter() as report:
        _, notes = api.export_gguf(
            model,
            out,
            type=type,
            pre=pre,
            imatrix=imatrix,
            options=writing.options,
            on_event=report.event,
            replace=writing.replace,
            restart=writing.restart,
        )
    if writing.in_words:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)


@app.command(help_epilogue=epilogue("export imatrix"))
@flowing
def imatrix(model: str, statistics: Path, out: Path, /, *, replace: bool = False, quiet: Quiet = False) -> None:
    """Write statistics of MODEL as the importance matrix OUT, for llama.cpp's own quantiser.

    `mergery export gguf --imatrix STATISTICS` needs no such file.

    Parameters
    ----------
    model
        The model that was measured: a model folder, a hub id, or a recipe.
    statistics
        The folder that `mergery calibrate --stats square` has written of it.
    out
        The file to write, named .gguf.
    replace
        Exchange the file OUT for the new one.
    """
    from mergery import api

    notes = api.export_imatrix(model, statistics, out, replace=replace)
    if not quiet:
        print(out)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)


@app.command(help_epilogue=epilogue("export quantized"))
@flowing
def quantized(
    model: str,
    out: Path,
    /,
    *,
    scheme: Annotated[str, Parameter(name=("--scheme", "-s"), completer=schemes)] = "w8a16",
    group: int | None = None,
    data: Path | None = None,
    writing: Writing = Writing(),
) -> None:
    """Write MODEL, or what a recipe merges, as the folder OUT in 8 or 4 bits, for vLLM, SGLang and transformers.

    The layout is that of compressed-tensors. The matrices of linear layers become codes; head, embeddings, routers and norms
    stay as they are. A recipe's merge is rounded once, to codes. Run the same command again after an interruption and it goes
    on.

    Parameters
    ----------
    model
        A model folder, a weight file, a GGUF file, a hub id, or a recipe (a YAML file).
    out
        The folder to write.
    scheme
        w8a16: integers of 8 bits. w4a16: of 4 bits, to the nearest. w4a16-gptq: of 4 bits, so that what a number loses is made
        up for by others, as far as --data tell. fp8: floats of 8 bits, inputs too while the model runs.
    group
        Numbers of a row that share a scale, of w4a16: 128 unless it says otherwise.
    data
        Of w4a16-gptq: a task file (.jsonl) or plain text on which the model is run first, block by block; or the folder that
        `mergery calibrate` wrote.
    """
    wait_without_spinning()
    from mergery import api

    with writing.reporter() as report:
        api.export_quantised(
            model,
            out,
            scheme=scheme,
            group=group,
            data=data,
            options=writing.options,
            on_event=report.event,
            replace=writing.replace,
            restart=writing.restart,
        )
