"""Models on the Hugging Face Hub: looking for them, and bringing them here."""
