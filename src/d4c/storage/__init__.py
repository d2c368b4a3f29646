"""What is kept on disk: files and folders that appear whole, with locks, manifests and hashes."""
