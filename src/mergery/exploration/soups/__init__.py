"""Soups: averages of models with weights that scores decide. Uniform, greedy, and of category experts (SoCE)."""
