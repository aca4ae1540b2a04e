"""Works out a model by onnx, in a process of its own; see `__main__`.

It is run as a package of this name alone, without the one around it, which takes longer to import
than the work: so its modules import one another relatively, and onnx at once.
"""
