"""The Scheduler's schema, as numbered SQL files. What is released is never edited: a change is the next number."""
