"""Who may run which trial, with which parameters."""
