"""Question to SQL to rows to answer."""
