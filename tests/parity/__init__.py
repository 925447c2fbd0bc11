"""Runs mergekit and Mergery on the same files and compares what they write. See `python -m tests.parity --help`."""
