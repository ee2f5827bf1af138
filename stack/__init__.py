"""Starts and stops the real parts of Berth in a directory of their own: for the demo, the tests and a laptop.

Nothing here is needed to serve Berth. The parts are run by supervisord, one per environment directory.
"""
