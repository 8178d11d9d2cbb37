"""Numbers about models, codes, samples and edits, and the report that prints them."""
