"""The report a person opens: a folder of HTML pages from plain rows and thumbnails."""
