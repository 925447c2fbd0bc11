"""What a person is told: a plan in words, the files beside the weights, what a checkpoint is."""
