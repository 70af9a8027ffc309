"""What leaves the house: connections, templates and the ledger of deliveries. Does not decide who gets a message."""
