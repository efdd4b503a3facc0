"""Changes of the database's form, one file each, in order."""
