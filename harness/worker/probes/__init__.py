"""Small experiments in one environment, one module each; `run(bench)` does them, and nothing here judges a result.

A probe is a file in this folder: its name is the file's, and the first line of its docstring says what it shows.
"""
