"""The report page: its template, and the values in it."""
