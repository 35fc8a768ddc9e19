"""Counts instructions of the hot path, so that a change which makes it dearer is seen whatever the machine's mood."""
