"""HTTP: thin endpoints, one file a noun."""
