"""From experiment folders to the results table, the figures and one HTML page."""
