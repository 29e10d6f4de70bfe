"""An experiment's page for people."""
