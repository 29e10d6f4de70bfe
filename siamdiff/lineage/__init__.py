"""Where an image went: each object under a root is traced back to its images, or known to be of none."""
