"""What can be deleted to free the disk: the facts, the plan, and the deletion."""
