"""What a method's author tests with: the conformance suite, the reference evaluator and float64 references.

Nothing is imported until it is used: `from mergery.testing.conformance import conformance`.
"""
