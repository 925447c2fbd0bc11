"""Runs mergekit and Weft on the same files and compares what they write. See `python -m tests.parity --help`."""
