"""A plan carried out: workers, where their bytes go, journal, events, cluster; what it will cost; packing and verifying."""
