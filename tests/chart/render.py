"""Prints what the chart renders as a JSON list of objects, hooks included: render.py NAME NAMESPACE [--upgrade] [VALUES_FILE...]"""

import json
import sys

import yaml

import chart


def main(args):
    upgrade = "--upgrade" in args
    name, namespace, *files = [arg for arg in args if arg != "--upgrade"]
    values = {}
    for file in files:
        with open(file) as text:
            values = chart.merged(values, yaml.safe_load(text) or {})
    json.dump(chart.render(values, name=name, namespace=namespace, is_upgrade=upgrade, is_install=not upgrade), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
