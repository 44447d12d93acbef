"""The one reader of rows: files, formats, columns, records."""
