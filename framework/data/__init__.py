from framework.data.batch import SPLITS, UNSCORED, Batch, Dataset, Split
from framework.data.make import DATASETS, make_dataset

__all__ = ["DATASETS", "SPLITS", "UNSCORED", "Batch", "Dataset", "Split", "make_dataset"]
