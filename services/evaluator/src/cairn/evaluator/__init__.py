"""Evaluator: owns profiles, enrollments and their transitions. Sends nothing and keeps no time."""
