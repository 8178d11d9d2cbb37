"""Synthetic faces: a built-in data set whose attribute labels are exact."""
