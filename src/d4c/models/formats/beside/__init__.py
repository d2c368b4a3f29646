"""What lies beside the weights of a CLIP and says how they are used."""
