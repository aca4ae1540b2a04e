"""Writing datasets: one file per kind of target."""
