"""Published models: their folders are read into our trees, and written back key for key."""
