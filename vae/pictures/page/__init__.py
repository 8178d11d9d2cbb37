"""One HTML page that edits faces by itself: written by write.py from the files beside it."""
