"""Use cases of the audit: sealing, reading, verifying, exporting, trimming, noting refusals."""
