"""NNEF's texts and tensors: grammar, standard fragments, flat operations, tensor files."""
