"""Grammars that more than one format shares."""
