"""What a `config.json` states, asked by part."""

from mergery.checkpoints.config import Config

LLAVA = Config({
    "model_type": "llava", "tie_word_embeddings": False, "vision_config": {"model_type": "clip_vision_model"},
    "text_config": {"model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": True},
})  # fmt: skip


def test_no_config_is_an_empty_one():
    none = Config()
    assert not none
    assert (none.family, none.depth, none.tied, none.quantisation) == (None, None, None, None)
    assert none.language is none
    assert none == Config({}) == {}


def test_sections_describe_parts():
    assert (LLAVA.family, LLAVA.language.family, LLAVA.family_of("vision")) == ("llava", "llama", "clip_vision_model")
    assert LLAVA.family_of("audio") == "llava"
    assert not LLAVA.section("audio")
    assert LLAVA.depth == 2


def test_the_whole_counts_before_the_language_section_where_both_say_whether_the_head_is_tied():
    assert LLAVA.tied is False


def test_a_plain_copy_changes_nothing():
    LLAVA.plain()["text_config"]["num_hidden_layers"] = 3
    assert LLAVA.depth == 2


def test_another_language_section_leaves_the_rest():
    other = LLAVA.with_language({**LLAVA.language, "num_hidden_layers": 5})
    assert (other.depth, other["vision_config"], list(other)) == (5, LLAVA["vision_config"], list(LLAVA))
    assert Config({"n_layer": 1}).with_language({"n_layer": 7}) == {"n_layer": 7}
