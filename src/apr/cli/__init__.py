"""The command line: one small file per command; `out.py` decides how an answer looks; nothing is computed here."""
