"""What the daemon calls: clients of other people's servers."""
