"""Vocabularies: which tokens the output has, whose rows they get, and the tokenizer that is written.

`reading` reads tokenizers from files alone; `choosing` decides the output's tokens and the giver of every row; `rows` sews
each model's embeddings and head into that order, so that methods see equal shapes; `rebuilding` writes the tokenizer;
`special` the configs that speak of token ids; `chat` the chat template. `filling` makes rows that no model has.
"""
