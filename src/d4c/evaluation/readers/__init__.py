"""One file per reader of datasets, each with a `Reader` that the table in `load_dataset` lists."""
