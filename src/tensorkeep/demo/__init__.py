"""The demo: a real training that is killed, resumed, verified, converted and compared."""

from tensorkeep.demo.story import run
from tensorkeep.demo.summary import Conversion, Kill, Summary

__all__ = ["Conversion", "Kill", "Summary", "run"]
