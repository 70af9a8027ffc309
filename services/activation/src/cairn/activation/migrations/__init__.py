"""The schema `activation`, as numbered SQL files."""
