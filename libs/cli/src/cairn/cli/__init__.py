"""The `cairn` command. Owns what a person types and sees; refuses to know what a journey means."""
