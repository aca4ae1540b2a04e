"""Pickles as data: read by a machine that runs nothing, written without the objects' classes.

`machine` reads; `literals` and `opcodes` say what each instruction does to the `stack`; `values`
are what a pickle speaks of beyond Python's own containers; `plain` and `arrays` list the functions
of ours that stand for names of Python's and NumPy's; `writing` writes.
"""
