"""Data sets: found, checked, decoded once, fingerprinted; one uint8 tensor a split, or streamed."""

from simclr_core.data.dataset import Dataset, Split, feed, shuffled
from simclr_core.data.folder import read_image
from simclr_core.data.load import load_dataset, search_folders

__all__ = ["Dataset", "Split", "feed", "load_dataset", "read_image", "search_folders", "shuffled"]
