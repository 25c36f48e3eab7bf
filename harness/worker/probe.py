"""placeholder"""


def run(cell, out_dir, phases):
    return {}
