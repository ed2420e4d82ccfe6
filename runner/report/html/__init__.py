"""The report of a sweep: one offline HTML page."""
