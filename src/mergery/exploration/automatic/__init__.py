"""The whole choice made for the user: whether to merge at all, by which method, and with which weights."""
