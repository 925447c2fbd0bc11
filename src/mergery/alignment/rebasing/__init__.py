"""A fine-tune moved onto another base: what it has learned is carried through maps between the two bases' spaces.

transfusion  the old base's neurons, heads and channels brought into the order of the new one's, by their weights
theseus      orthogonal maps, of inputs and outputs on texts, or of weights alone; widths may differ
gradfix      the part that goes down the new base's own loss
"""
