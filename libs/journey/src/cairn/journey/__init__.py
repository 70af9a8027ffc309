"""What a journey means: its model, its limits, its plan and the machine. Pure: no clock, no I/O, no chance.

document   YAML -> messages of the contract       parse   message -> model, or all that is wrong with it
plan       model -> a flat, immutable program     machine one input -> the next state and its effects
"""
