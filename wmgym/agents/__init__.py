"""Agents that train in imagination."""
