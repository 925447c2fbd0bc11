"""Golden results: bytes, digests, keys and messages that moving or renaming code must not change.

The JSON files beside this one are what the tests compare with. After a deliberate change, `python -m tests.golden` writes
them anew; read the difference before it is committed.
"""
