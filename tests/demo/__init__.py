"""Tests of the shipped demo."""
