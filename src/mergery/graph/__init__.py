"""How an output tensor comes to be: four kinds of nodes, and a model as named nodes. See README.md in this folder."""
