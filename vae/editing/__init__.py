"""Edits that a classifier of decoded faces steers."""
