"""What each architecture needs; a base and its adapter; the exact loss."""
