"""Drawing images for masks from a trained model."""
