"""How a Cairn process starts, serves, drains and stops. Owns no journey, no table and no business rule."""
