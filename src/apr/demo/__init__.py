"""`apr demo`: the founding story, end to end, on real text, every number measured on the machine it runs on."""
