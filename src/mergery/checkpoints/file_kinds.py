"""What each file of a model folder is, decided from its name alone: for a folder on disk, and for a list of the hub's.

A file holds weights; or goes with a model and is taken along; or is state of its training; or nobody knows, and a plan
names it. Files and folders whose names begin with a dot are housekeeping and no part of a model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

CONFIG = "config.json"
MODULES = "modules.json"  # of sentence-transformers: names the folders of the modules behind the model
CARD = "README.md"  # a merged model has a card of its own
ADAPTER = "adapter_config.json"  # what stands beside a whole model would be loaded upon it
NOT_COPIED = (CARD, ADAPTER)

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab*.json", "*_vocab.json", "merges.txt", "vocab*.txt", "vocab.bpe", "encoder.json", "bpe.codes", "dict.txt",
    "emoji.json", "tekken.json", "tokenizer.model", "tokenizer.model.v*", "spiece.model", "sentencepiece*", "*.bpe.model",
    "spm*.model", "*.spm", "*.tiktoken", "normalizer.json", "tokenization_*.py",
    "chat_template.*", "additional_chat_templates/*",
)  # fmt: skip
MODEL_FILES = (
    # how the model is run
    "generation_config.json", "*processor_config.json", "*processor.json", "*feature_extractor*.json", "image_processor*.json",
    "mel_filters.npz",
    # sentence-transformers
    MODULES, "config_sentence_transformers.json", "sentence_*_config.json", "router_config.json",
    # what was measured of it, or found for it
    "statistics.json", "transform.json",
    # papers
    "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*", *NOT_COPIED,
)  # fmt: skip
CODE = ("*.py", "*.cu", "*.cuh", "*.cpp", "*.cc", "*.h", "*.hpp")  # of the model, also in a folder within

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # that can be read
OTHER_WEIGHTS = {
    "*.gguf": "GGUF", "ggml-*.bin": "GGML", "*.h5": "TensorFlow", "*.keras": "Keras", "*.ckpt.index": "TensorFlow",
    "*.ckpt*.data-*-of-*": "TensorFlow", "*.ckpt-*.index": "TensorFlow", "*.msgpack": "Flax", "*.onnx": "ONNX",
    "*.onnx_data": "ONNX", "openvino_*": "OpenVINO", "*.tflite": "TensorFlow Lite", "*.mlmodel": "Core ML", "*.ot": "rust-bert",
    "*.npz": "NumPy", "*.pdparams": "Paddle", "*.nemo": "NeMo",
}  # fmt: skip
"""Weights in forms that are not read: patterns of names, and the form."""

TRAINING = (
    "training_args.bin", "trainer_state.json", "optimizer*", "scheduler*.pt", "scheduler*.bin", "scaler*", "rng_state*",
    "random_states_*", "custom_checkpoint_*", "*_model_states.pt", "*_optim_states.pt", "latest", "zero_to_fp32.py",
    "global_step[0-9]*", "pytorch_model_fsdp_[0-9]*", "*.distcp", "checkpoint-[0-9]*", "events.out.tfevents*", "runs", "wandb",
    "logs", "lightning_logs", "all_results.json", "train_results.json", "eval_results.json", "trainer_log.jsonl",
)  # fmt: skip
OURS = ("mergery.lock.json",)  # written anew for every merge
TRANSPORTED = "transport.json"  # of `mergery transport`: some tensors of a model, with the recipe that merges them
_BESIDE = {
    TRANSPORTED: (TRANSPORTED, "recipe.yaml"),
    "transform/transform.json": ("transform",),
    "fusion.json": ("fusion.json",),  # what `mergery fuse` was told, and what came of it
}
"""What Mergery keeps beside weights, for itself: by a file that says so, the files and folders."""


class Belongings(NamedTuple):
    """The files of a model beside its weights and its config. A folder stands for all in it, with `/` behind its name."""

    side: tuple[str, ...]  # taken along, by a rule
    training: tuple[str, ...]  # state of its training
    unknown: tuple[str, ...]
    ours: tuple[str, ...] = ()  # what Mergery keeps beside the weights for itself


def is_weight_file(name: str) -> bool:
    """Whether the name is that of a weight file that can be read, and not of an optimizer's or trainer's state."""
    return name.endswith(WEIGHT_SUFFIXES) and not _is_any(name, (*TRAINING, *OTHER_WEIGHTS))


def other_form(name: str) -> str | None:
    """The form of weights that are not read, such as GGUF; None for any other file."""
    return next((form for pattern, form in OTHER_WEIGHTS.items() if fnmatchcase(name, pattern)), None)


def is_tokenizer_file(name: str) -> bool:
    """Whether the file belongs to the tokenizer, with its chat templates."""
    return _is_any(name, TOKENIZER_FILES)


def is_side_file(name: str) -> bool:
    """Whether the file goes with a model but holds no weights. `config.json` has its own place."""
    top, _, inner = name.partition("/")
    if "/" in inner or _is_any(top, TRAINING):
        return False
    if inner:
        return fnmatchcase(name, "additional_chat_templates/*") or _is_any(inner, CODE)
    return _is_any(name, (*TOKENIZER_FILES, *MODEL_FILES, *CODE))


def sort_files(names: Iterable[str], weights: Collection[str], modules: Collection[str] = ()) -> Belongings:
    """Sort the files of a folder that are none of its `weights`. `modules` are folders that belong to the model."""
    side: list[str] = []
    training: dict[str, None] = {}
    unknown: dict[str, None] = {}
    names = sorted(names)
    ours = tuple(each for sign, kept in _BESIDE.items() if sign in names for each in kept)
    for name in names:
        top, _, inner = name.partition("/")
        if name in weights or name == CONFIG or name in OURS or any(part.startswith(".") for part in name.split("/")):
            continue
        whole = f"{top}/" if inner or name.endswith("/") else name
        if top in ours:
            continue
        if any(name.startswith(f"{module}/") for module in modules) and not name.endswith("/"):
            if not _holds_weights(name):
                side.append(name)
        elif _is_any(top, TRAINING):
            training[whole] = None
        elif is_side_file(name):
            side.append(name)
        elif inner or not _holds_weights(name):
            unknown[whole] = None
    return Belongings(tuple(side), tuple(training), tuple(unknown), ours)


def _holds_weights(name: str) -> bool:
    last = name.rpartition("/")[2]
    return is_weight_file(last) or other_form(last) is not None or last.endswith(".index.json")


def _is_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
