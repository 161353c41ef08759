"""Sources to documents, documents to rows of token ids."""
