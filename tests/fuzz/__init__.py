"""Hostile inputs: each is accepted, or refused with a clear message, and nothing else happens."""
