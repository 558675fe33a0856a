"""Being here puts this folder on the path: what tests share is found from the folders below."""
