"""Classes of lesion size, by the share of the image that a mask covers."""

SIZES = (("small", 0.05), ("medium", 0.15), ("large", 1.0))  # at most; more than the class before


def size_class(share: float) -> str | None:
    """The class of a mask that covers a share of the image; None: there is no lesion."""
    return next((name for name, up_to in SIZES if 0 < share <= up_to), None)
