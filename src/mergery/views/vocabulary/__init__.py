"""Vocabularies: which tokens the output has, whose rows they get, and the tokenizer that is written.

`unifying` leads from a recipe's words to the rest: `choosing` decides the output's tokens and the giver of every row; `rows`
brings each model's embeddings and head into that order, so that methods see equal shapes; `filling` makes rows that no model
has, by `pursuit` if asked; `rebuilding` writes the tokenizer, and `special` the configs that speak of token ids. `comparing`
says where tokenizers differ.
"""
