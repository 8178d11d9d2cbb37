"""Data: find pictures and their tables, decode and pack them once, serve them as batches."""
