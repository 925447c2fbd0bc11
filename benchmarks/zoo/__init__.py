"""The zoo: small models really trained, every method of Weft on them, and a table of which method does what."""
