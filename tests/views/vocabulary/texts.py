"""Small texts in English and Korean, and tokenizers of four kinds trained on them."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ENGLISH = [
    "The weaver throws the shuttle from one side of the loom to the other.",
    "Every thread of the warp is lifted and lowered again and again.",
    "In 1785 a machine took over what hands had done; it wove 24 rows a minute.",
    "the the the weaver weaver weaver of of of threads threads",
]
KOREAN = [
    "베틀에 앉은 직공이 북을 이쪽에서 저쪽으로 던진다.",
    "날실은 올라갔다 내려갔다 하고 씨실은 그 사이를 지난다.",
    "옷감을 짜는 일은 오래된 일이다. 옷감을 짜는 직공",
    "직공 직공 직공 베틀 베틀 베틀 옷감을 옷감을 옷감을",
]
SAID = ["The weaver threads the loom in 1785.", "직공이 베틀에서 옷감을 짠다.", "a shuttle, 북, and 24 threads 😀"]


def byte_bpe(texts: list[str], size: int, special: tuple[str, ...] = ("<s>", "</s>")) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def unigram(texts: list[str], size: int, special: tuple[str, ...] = ("<unk>", "<s>", "</s>")) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(special), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def wordpiece(texts: list[str], size: int, special: tuple[str, ...] = ("[UNK]", "[CLS]", "[SEP]")) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, template: str | None = None, **settings: object) -> Path:
    """Write the files that a model folder has."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, **settings}
    if template:
        facts["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder
