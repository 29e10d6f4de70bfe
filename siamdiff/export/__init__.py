"""Complete sets in the forms that other tools open: folders, nnU-Net's raw data sets, Hugging Face data sets."""
