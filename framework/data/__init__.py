from framework.data.batch import SPLITS, UNSCORED, Batch, Dataset, Split, carries
from framework.data.make import DATASETS, make_dataset
from framework.data.text import Characters

__all__ = [
    "DATASETS",
    "SPLITS",
    "UNSCORED",
    "Batch",
    "Characters",
    "Dataset",
    "Split",
    "carries",
    "make_dataset",
]
