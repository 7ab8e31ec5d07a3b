"""A small server of many tasks on one trunk: inputs, trunk, batches, HTTP and metrics, each in a file of its own."""
