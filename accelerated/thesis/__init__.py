"""The thesis's tables and figures as data, run and shown next to the published ones. Nothing else needs it."""
