"""The thesis's tables and figures, run and shown next to the published ones. Nothing else needs this folder.

A new table is a list of rows in `presets.py`. Its published figures are a CSV file in `published/`. `tables.py` runs
what is missing, `pages.py` and `plots.py` print and draw it, `command.py` puts it on the command line.
"""
