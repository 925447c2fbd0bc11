"""From a recipe to a plan, from headers alone.

`opening` opens the models, and `inputs` refuses what is no plain one; `models` makes of them the output's view, in three steps,
by way of `compatibility`, `side_by_side` and `stack`. `treatment` says what each tensor gets, `settings` with which settings,
`special_cases` what is treated apart, and `nodes` makes the node. `steps` and `layout` say where its bytes will lie, `remarks`
what the user is told, `digest` what it all depends on; `plan` puts this together.
"""
