"""How a text is scored, compared and spoken about."""
