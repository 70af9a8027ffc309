"""Postgres as Cairn uses it; knows no service's tables. Import the modules, this package re-exports nothing."""
