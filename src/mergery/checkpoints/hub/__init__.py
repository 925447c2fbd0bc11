"""Models on the Hugging Face hub.

* `checkpoint`: a model there, pinned to a commit, whose weights come into the hub's cache once the plan is sound;
* `remote`: parts of its files, by range requests, and the hub's errors in plain words.
"""
