"""One checkpoint written by many processes, each its own files; read by one, or by any number.

saving         the protocol: parts through the storage, merged by one process
consolidating  a sharded checkpoint made into plain files, with flat memory
jax            arrays over devices and processes, by JAX
torch          PyTorch's distributed checkpoint, by its own writers and readers
"""

from __future__ import annotations

from tensorkeep.distributed.consolidating import Consolidated, consolidate
from tensorkeep.distributed.saving import Part, SharedSave, new_token

__all__ = ["Consolidated", "Part", "SharedSave", "consolidate", "new_token"]
