"""`python -m tensorkeep`."""

from tensorkeep.cli import main

main()
