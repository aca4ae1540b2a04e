"""Training data in batches: read, shuffled, sharded, prefetched, and resumed to the sample."""

from tensorkeep.data.batches import Batches
from tensorkeep.data.dataset import Dataset, Field
from tensorkeep.data.sources import open
from tensorkeep.data.writing import Written, write

__all__ = ["Batches", "Dataset", "Field", "Written", "open", "write"]
