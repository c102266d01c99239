"""Tests of pipeline.graph."""
