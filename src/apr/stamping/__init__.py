"""Changing what a checkpoint says of itself, never what it is. Entry: `apr.stamping.patch.stamp_file`."""
