"""Tokenizers, as their files state them: none is loaded, and no text is cut into tokens.

* `reading`: tokens, ids, merges, scores and special tokens of a model;
* `token_bytes`: the text that a token stands for, and how numbers are cut;
* `chat_templates`: a model's own, those in `templates`, and what one makes of a conversation (`render_template`).
"""
