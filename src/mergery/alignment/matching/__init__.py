"""Which coordinates of one model are which of another: found on weights or on activations, kept as a transform.

* `pairs`: two models' tensors, piece by piece; `assignment`: units one by one; `gauges`: matrices that nothing else sees;
* `units`, `heads`: neurons, experts and channels; heads with their queries and keys, values and outputs;
* `weights`: all of it, layer by layer, until nothing is gained;
* `learning`: from there on by the loss of the model in the middle.
"""
