"""Learning how much of each model goes into a merge: what is learnt is settings, what is applied is an ordinary recipe.

    mergery.learn("recipe.yaml", {"math": "math.jsonl", "code": "code.jsonl"}, "learned.yaml")

    W(c) = W_0 + sum_i c_i D_i          of each tensor; D_i is what model i adds at weight 1, and no weight changes it
    dL/dc_i = <dL/dW, D_i>

So one merged model and its gradient are in memory, and what each model adds stays in files. Yang et al. 2024 (AdaMerging, arXiv
2310.02575), Wortsman et al. 2022 (learned soups, arXiv 2203.05482), Prabhakar et al. 2024 (LoRA soups, arXiv 2410.13025).
"""
