"""From a plan to bytes: workers, where the bytes go, the journal for going on, and clusters that share the work."""
