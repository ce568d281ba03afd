"""What a question speaks of: tables and columns by their names, cell values, numbers; and what of a wide schema is shown."""
