"""The viewer: a local web page that shows what is in files, models, checkpoints and runs."""
