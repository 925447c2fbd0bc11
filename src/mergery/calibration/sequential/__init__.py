"""A merge and the models that it merges, run side by side on data, block by block in forward order.

What a block is given is what the blocks before it make of the data, once these have got their new weights: the blocks of the
merge are fitted one after the other, each to the prefix that it will really stand behind.
"""
