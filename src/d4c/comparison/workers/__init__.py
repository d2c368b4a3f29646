"""What does the work of a comparison: processes of this machine, or a cluster, and what they are asked to do."""
