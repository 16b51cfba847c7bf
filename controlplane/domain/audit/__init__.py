"""The audit: entries chained by seals, what is kept about exports and trims, how it is verified."""
