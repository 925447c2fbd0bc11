"""What llama.cpp makes of files: run by the Python that has its package, which is not ours. Reads and prints JSON."""

import json
import sys

import llama_cpp  # pyright: ignore[reportMissingImports]
from llama_cpp import llama_cpp as library  # pyright: ignore[reportMissingImports]

default_params = library.llama_model_default_params


def plain_params():
    """Weights as they lie in the file: packed for a processor's matrix unit (AMX), such small ones end in a fault."""
    params = default_params()
    params.use_extra_bufts = False
    return params


library.llama_model_default_params = plain_params
asked = json.load(sys.stdin)
found = []
for each in asked:
    model = llama_cpp.Llama(
        each["path"], n_ctx=128, logits_all=True, verbose=False, n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip
    answer = {"ids": [model.tokenize(text.encode(), add_bos=False, special=True) for text in each.get("texts", [])]}
    if "tokens" in each:
        model.eval(each["tokens"])
        answer["logits"] = [[float(number) for number in row] for row in model.scores[: len(each["tokens"])]]
    found.append(answer)
    model.close()
print(json.dumps(found))
