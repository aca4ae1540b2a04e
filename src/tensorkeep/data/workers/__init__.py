"""Threads and processes that make batches ahead of the one that is used."""
