"""What is attacked: each reader of files and settings, with sound inputs, ways to change them, and how to read them."""
