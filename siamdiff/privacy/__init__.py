"""What a data officer has to know before a synthetic set leaves the house: `python -m siamdiff privacy`."""
