"""Tensors to picture files: grids, labelled figures, GIFs."""
