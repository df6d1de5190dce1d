"""Logs of a run as it goes on: files and folders that hold its figures round by round."""
