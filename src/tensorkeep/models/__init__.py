"""Models: check, run, edit and build them, look into their operators."""
