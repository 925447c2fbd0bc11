"""Candidates scored by several workers at once: processes of this machine, each on a device of its own, or of a Ray cluster.

What is drawn depends on how many candidates are drawn together and never on which of them is finished first, so a study ends
the same with any number of workers. A worker that is lost is replaced, and its candidate scored again.
"""
