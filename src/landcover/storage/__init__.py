"""Objects in folders and in object storage: results of fleets, and scenes at addresses."""
