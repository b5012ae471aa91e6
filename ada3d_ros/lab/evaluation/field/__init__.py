"""The field's benchmarks on their official files: one file each, and what runs and scores them."""
