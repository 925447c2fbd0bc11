"""How far two models are from each other, from a sample of their weights, and what can therefore be done with them."""
