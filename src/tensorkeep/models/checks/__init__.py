"""What may be wrong with a model, a kind of fault in each file."""
