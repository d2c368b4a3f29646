"""What a report says, as records: one measure a file, without HTML."""
