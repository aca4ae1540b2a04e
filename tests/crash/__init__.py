"""Kill saving processes at random instants, and look at what they leave.

    python -m tests.crash --trials 1000
    python -m tests.crash --what checkpoints --trials 500
    python -m tests.crash --peers --trials 100 --write

The kill is a SIGKILL, which nothing can catch.
"""
