"""Episode node: runs, labels and stores episodes."""
