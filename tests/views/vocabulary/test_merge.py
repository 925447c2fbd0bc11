"""Models of one architecture whose vocabularies differ, through the command line and transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import Outcome, make_llama
from tests.views.vocabulary.models import EMBED, HEAD, words, write_model
from tests.views.vocabulary.texts import ENGLISH, KOREAN, SAID, byte_bpe, save, unigram, wordpiece

Mergery = Callable[..., Outcome]
KINDS = {"bpe": byte_bpe, "unigram": unigram, "wordpiece": wordpiece}
CHAT = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="session")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each kind of tokenizer an English `base` and a Korean `chat` with a token of its own; both have padding rows."""
    root = tmp_path_factory.mktemp("vocabularies")
    for kind, train in KINDS.items():
        english, korean = train(ENGLISH, 300), train(KOREAN, 320)
        korean.add_special_tokens(["<|im_start|>"])
        roles = {"eos_token": "[SEP]"} if kind == "wordpiece" else {"bos_token": "<s>", "eos_token": "</s>"}
        for seed, (name, tokenizer, template) in enumerate((("base", english, None), ("chat", korean, CHAT))):
            folder = root / kind / name
            rows = tokenizer.get_vocab_size() + 3 + seed
            ids = {
                "bos_token_id": None,
                "eos_token_id": tokenizer.token_to_id(roles["eos_token"]),
                "pad_token_id": None,
            }
            make_llama(folder, seed, vocab_size=rows, num_hidden_layers=2, hidden_size=16, intermediate_size=16, **ids)
            save(tokenizer, folder, template, **roles)
    return root


def recipe(folder: Path, home: Path, merge: str, more: str = "") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"models: {{base: {home / 'base'}, chat: {home / 'chat'}}}\nmerge: {merge}\n{more}\n")
    return path


def run(mergery: Mergery, *arguments: object) -> Outcome:
    done = mergery(*arguments)
    assert done.code == 0, done.err
    return done


def load(folder: Path) -> AutoModelForCausalLM:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


LINEAR = "{method: linear, models: [base, chat], weight: {base: 0.25, chat: 0.75}}"


@pytest.mark.parametrize("kind", KINDS)
def test_union(kind: str, parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    out = tmp_path / "out"
    run(mergery, "merge", recipe(tmp_path, parents / kind, LINEAR, "output: {tokenizer: union}"), out)
    joined = AutoTokenizer.from_pretrained(out)
    own = {name: AutoTokenizer.from_pretrained(parents / kind / name) for name in ("base", "chat")}
    for text in (*ENGLISH, *KOREAN, *SAID):
        for parent in own.values():
            ids = parent(text, add_special_tokens=False)["input_ids"]
            moved = joined.convert_tokens_to_ids([parent.backend_tokenizer.id_to_token(index) for index in ids])
            assert joined.decode(moved) == parent.decode(ids)
        if kind == "bpe":
            assert joined.decode(joined(text)["input_ids"]) == text
    assert joined("<|im_start|>", add_special_tokens=False)["input_ids"] == [joined.get_vocab()["<|im_start|>"]]
    model = load(out)
    merged, rows = load_file(out / "model.safetensors"), {}
    for name in own:
        rows[name] = load_file(parents / kind / name / "model.safetensors")
    assert model.config.vocab_size == len(merged[EMBED]) == len(joined.get_vocab())
    for tensor in (EMBED, HEAD):
        for token, index in joined.get_vocab().items():
            have = [name for name, tokenizer in own.items() if token in tokenizer.get_vocab()]
            theirs = [rows[name][tensor][own[name].get_vocab()[token]] for name in have]
            expected = theirs[0] if len(have) == 1 else 0.25 * theirs[0] + 0.75 * theirs[1]
            assert torch.allclose(merged[tensor][index], expected, atol=1e-7)


@pytest.mark.parametrize("name", ["base", "chat"])
def test_a_parent_of_weight_one_speaks_as_before(name: str, parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    """Logits of the ids that a parent knows are its own, in the output's order."""
    home = parents / "bpe"
    weight = {"base": "{base: 1, chat: 0}", "chat": "{base: 0, chat: 1}"}[name]
    merge = f"{{method: linear, models: [base, chat], weight: {weight}}}"
    run(mergery, "merge", recipe(tmp_path, home, merge, "output: {tokenizer: union}"), tmp_path / "out")
    own, joined = (AutoTokenizer.from_pretrained(folder) for folder in (home / name, tmp_path / "out"))
    vocabulary = own.get_vocab()
    order = torch.tensor(joined.convert_tokens_to_ids(list(vocabulary)))
    ids = torch.tensor([own(SAID[0])["input_ids"]])
    moved = torch.tensor([joined.convert_tokens_to_ids(own.convert_ids_to_tokens(ids[0]))])
    with torch.no_grad():
        before = load(home / name)(ids).logits[..., list(vocabulary.values())]
        after = load(tmp_path / "out")(moved).logits[..., order]
    assert torch.allclose(before, after, atol=1e-6)


def test_logits_of_common_tokens_are_merged_like_the_heads(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    """Where only heads differ, logits are linear in them: those of a linear merge are the mean of the parents'."""
    home = tmp_path / "models"
    shutil.copytree(parents / "bpe" / "chat", home / "base")
    shutil.copytree(parents / "bpe" / "chat", home / "chat")
    for seed, name in enumerate(("base", "chat")):
        weights = load_file(home / name / "model.safetensors")
        weights[HEAD] += torch.randn(weights[HEAD].shape, generator=torch.Generator().manual_seed(seed))
        save_file(weights, home / name / "model.safetensors", {"format": "pt"})
    data = json.loads((home / "base" / "tokenizer.json").read_text())
    vocab = data["model"]["vocab"]
    a, b = list(vocab)[-2:]
    vocab[a], vocab[b] = vocab[b], vocab[a]  # two tokens change places, and so do their rows
    (home / "base" / "tokenizer.json").write_text(json.dumps(data))
    weights = load_file(home / "base" / "model.safetensors")
    for tensor in (EMBED, HEAD):
        order = torch.arange(len(weights[tensor]))
        order[[vocab[a], vocab[b]]] = order[[vocab[b], vocab[a]]]
        weights[tensor] = weights[tensor][order].contiguous()
    save_file(weights, home / "base" / "model.safetensors", {"format": "pt"})
    run(
        mergery,
        "merge",
        recipe(tmp_path, home, "{method: linear, models: [base, chat]}", "output: {tokenizer: chat}"),
        tmp_path / "out",
    )
    ids = torch.tensor([[5, 9, 77, 140]])
    with torch.no_grad():
        first, second, merged = (
            load(folder)(ids).logits for folder in (home / "base", home / "chat", tmp_path / "out")
        )
    places = torch.arange(merged.shape[-1])
    places[[vocab[a], vocab[b]]] = places[[vocab[b], vocab[a]]]
    assert torch.allclose(merged, (first[..., places] + second) / 2, atol=1e-5)


def test_task_arithmetic_on_the_tokens_of_the_other(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    home, out = parents / "bpe", tmp_path / "out"
    run(
        mergery,
        "merge",
        recipe(tmp_path, home, "{method: task_arithmetic, base: base}", "output: {tokenizer: chat}"),
        out,
    )
    assert (out / "tokenizer.json").read_bytes() == (home / "chat" / "tokenizer.json").read_bytes()
    merged, chat = (load_file(folder / "model.safetensors")[EMBED] for folder in (out, home / "chat"))
    assert torch.allclose(merged, chat, atol=1e-6)  # base + (chat - base), padding included
    eos = AutoTokenizer.from_pretrained(out).convert_tokens_to_ids("</s>")
    assert load(out).config.eos_token_id == eos
    assert run(mergery, "verify", out, "--sample", 5).out


def test_ties_over_the_whole_model(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    """Ranks over the whole model are taken of the aligned rows."""
    home = parents / "bpe"
    more = "vocabulary: {from: union, add: ['<new>'], pad_to_multiple_of: 64}"
    path = recipe(tmp_path, home, "{method: ties, base: base, density: 0.5, scope: model}", more)
    for threads in (1, 2):
        run(mergery, "merge", path, tmp_path / f"out{threads}", "--threads", threads)
    one, two = ((tmp_path / f"out{n}" / "model.safetensors").read_bytes() for n in (1, 2))
    assert one == two
    assert len(load_file(tmp_path / "out1" / "model.safetensors")[EMBED]) % 64 == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out1")
    assert tokenizer("<new>")["input_ids"] == [len(tokenizer.get_vocab()) - 1]


OPTIONS = "output: {tokenizer: base} keeps the base's tokens, {tokenizer: union} all models' tokens"


def test_without_a_word_on_tokens(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    done = mergery("plan", recipe(tmp_path, parents / "bpe", LINEAR))
    assert done.code == 2
    assert "'model.embed_tokens.weight' is [303, 16] in 'base' and [325, 16] in 'chat'" in done.err
    assert "why: the vocabularies differ: 'chat' has 63 tokens (such as" in done.err
    assert "and 'base' has 42 tokens (such as" in done.err
    assert OPTIONS in done.err


def test_equal_shapes_and_other_ids(tmp_path: Path, mergery: Mergery) -> None:
    write_model(tmp_path / "base", words("u", "v", "w"), [[0, 0]] * 3)
    write_model(tmp_path / "chat", words("v", "u", "w"), [[0, 0]] * 3)
    done = mergery("plan", recipe(tmp_path, tmp_path, LINEAR))
    assert done.code == 2
    assert "the tokenizers of 'base' and 'chat' give 2 tokens other ids" in done.err
    assert "why: 'v' is 1 in 'base' and 0 in 'chat': rows of different tokens would be mixed" in done.err
    assert OPTIONS in done.err


def test_the_same_tokens_with_other_padding(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    home = tmp_path / "models"
    for name in ("base", "chat"):
        shutil.copytree(parents / "bpe" / "base", home / name)
    weights = load_file(home / "chat" / "model.safetensors")
    for tensor in (EMBED, HEAD):
        weights[tensor] = torch.cat((weights[tensor], torch.ones(5, 16)))
    save_file(weights, home / "chat" / "model.safetensors", {"format": "pt"})
    done = mergery("plan", recipe(tmp_path, home, LINEAR))
    assert done.code == 2
    assert "why: their tokenizers are the same, 300 tokens; the rows beyond are padding" in done.err
    assert "try: output: {tokenizer: base} takes as many rows as the base has" in done.err
    run(mergery, "merge", recipe(tmp_path, home, LINEAR, "output: {tokenizer: base}"), tmp_path / "out")
    assert len(load_file(tmp_path / "out" / "model.safetensors")[EMBED]) == 303


def test_tokens_in_the_padding_of_the_other(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    """Equal shapes, and a token that only one model knows: a warning, for nothing is mixed."""
    home = tmp_path / "models"
    for name in ("base", "chat"):
        shutil.copytree(parents / "bpe" / "base", home / name)
    data = json.loads((home / "chat" / "tokenizer.json").read_text())
    data["added_tokens"].append({**data["added_tokens"][0], "id": 300, "content": "<|im_start|>"})
    (home / "chat" / "tokenizer.json").write_text(json.dumps(data))
    done = run(mergery, "plan", recipe(tmp_path, home, LINEAR))
    text = " ".join(done.out.split())
    assert "chat has the token '<|im_start|>' that base lacks, and the output is not told of tokens" in text
    run(mergery, "merge", recipe(tmp_path, home, LINEAR, "output: {tokenizer: union}"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("<|im_start|>")["input_ids"] == [300]
    assert len(load_file(tmp_path / "out" / "model.safetensors")[EMBED]) == 303  # it has taken a row of padding


def test_templates_and_the_plan(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    home = parents / "bpe"
    more = "output: {tokenizer: union, chat_template: chatml}"
    done = run(mergery, "plan", recipe(tmp_path, home, LINEAR, more))
    assert "363 tokens (byte-level BPE), 363 rows, 63 from other models than base" in done.out
    assert "<|im_start|>user" in done.out
    facts = json.loads(run(mergery, "plan", tmp_path / "recipe.yaml", "--json").out)
    assert facts["chat"]["text"].startswith("<|im_start|>user\nHello!<|im_end|>\n")
    assert (facts["output"]["vocabulary"]["tokens"], facts["output"]["vocabulary"]["lead"]) == (363, "base")
    run(mergery, "merge", tmp_path / "recipe.yaml", tmp_path / "out")
    talk = [{"role": "user", "content": "Hi"}]
    written = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert written.apply_chat_template(talk, tokenize=False) == "<|im_start|>user\nHi<|im_end|>\n"
    run(
        mergery,
        "merge",
        recipe(tmp_path, home, LINEAR, "output: {tokenizer: base, chat_template: auto}"),
        tmp_path / "auto",
    )
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "auto").apply_chat_template(talk, tokenize=False) == "<|im_start|>Hi"
    )


def test_unlike_tokenizers_are_told_apart(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"models: {{base: {parents}/bpe/base, chat: {parents}/unigram/chat}}\n"
        f"merge: {LINEAR}\noutput: {{tokenizer: union}}\n"
    )
    done = mergery("plan", path)
    assert done.code == 2
    assert "the tokenizers of 'base' and 'chat' cannot be joined" in done.err
    assert "base has a byte-level BPE tokenizer and chat a unigram one" in done.err
    path.write_text(path.read_text().replace("union", "base"))
    text = " ".join(run(mergery, "plan", path).out.split())
    assert "chat has a unigram tokenizer, the output a byte-level BPE one: tokens are told by the text" in text


def test_a_damaged_tokenizer_is_told(parents: Path, tmp_path: Path, mergery: Mergery) -> None:
    home = tmp_path / "models"
    for name in ("base", "chat"):
        shutil.copytree(parents / "bpe" / "base", home / name)
    (home / "chat" / "tokenizer.json").write_text('{"model": 3}')
    text = " ".join(run(mergery, "plan", recipe(tmp_path, home, LINEAR)).out.split())
    assert "chat: its tokenizer cannot be read (the tokenizer has no model); its tokens are not compared" in text
    done = mergery("plan", recipe(tmp_path, home, LINEAR, "output: {tokenizer: union}"))
    assert done.code == 2
    assert "chat/tokenizer.json: the tokenizer has no model" in done.err
