"""GGUF, the files of llama.cpp: read as models under the names that transformers gives their tensors.

* `header`: what stands before the tensors: metadata, names, shapes, types; `file` reads and decodes tensors by slice;
* `families`: for each architecture, its tensors, settings and what llama.cpp stores in another way; for reading and writing;
* `config`, `tokens`: a `config.json` and a tokenizer made from metadata;
* `checkpoint`: the whole as a checkpoint.

Blocks are decoded by the package `gguf`, which comes from llama.cpp itself.
"""
