"""hdf5: files of HDF5's groups and datasets, and Keras's formats, which are such files."""

from tensorkeep.formats.hdf5.plain import FORMAT

__all__ = ["FORMAT"]
