"""Training loops of other libraries: one file each, none of which is imported before it is used."""
