"""SigLIP's checkpoints: names of Hugging Face and of timm in open_clip, and configurations."""
