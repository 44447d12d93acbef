"""Reading rows: file types, column conventions, and records."""
