"""How texts are scored and compared, and what may be said about the result."""
