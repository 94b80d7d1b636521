"""setup.cfg holds the metadata; this file lets older tools find it."""

from setuptools import setup

setup()
