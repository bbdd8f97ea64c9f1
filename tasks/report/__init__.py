"""The report a person opens: one HTML file from plain rows and thumbnails."""
