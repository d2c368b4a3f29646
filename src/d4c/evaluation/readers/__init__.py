"""One file for each kind of dataset, with a `Reader` that the table in `load_dataset` lists."""
