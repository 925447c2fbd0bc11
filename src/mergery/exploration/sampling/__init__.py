"""Samplers that Optuna lacks, as functions of what has been tried: natural niches, cycled qualities, a quadratic surrogate.

A candidate is a row of numbers from 0 to 1, one for each open value; of a choice it is the number of the value.
"""
