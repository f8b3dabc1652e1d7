"""One file per family: its networks, its objectives, its program."""
