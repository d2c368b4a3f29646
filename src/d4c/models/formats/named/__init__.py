"""Models that have a name and are downloaded: of open_clip's catalog and of the Hugging Face Hub."""
