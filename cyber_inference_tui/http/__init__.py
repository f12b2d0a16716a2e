"""Port 8337: the model endpoints, the admin API and who may use them."""
