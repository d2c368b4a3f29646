"""One module for each objective of the synthesis."""
