"""The zoo: small models really trained, every method of Mergery on them, and a table of which method does what."""
