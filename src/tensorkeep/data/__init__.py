"""Training data in batches: read, shuffled, sharded, prefetched, and resumed to the sample."""
