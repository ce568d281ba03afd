"""Evaluation: tasks, metrics, reports. Models are seen only as Generators, SQL only through the copilot's door."""
