"""The viewer: a local web page that shows what is in files, models, checkpoints and runs."""

from tensorkeep.viewer.exporting import export
from tensorkeep.viewer.viewing import View, view

__all__ = ["View", "export", "view"]
