"""Generated messages and stubs of `fleetplane.v1`; made by `make protos`, never edited."""
