"""Search for models on the Hugging Face Hub, and download them."""
