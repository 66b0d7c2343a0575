"""The chart under test: loads, renders and takes apart. Knows Helm's library and Kubernetes' shapes, and no property that a test asserts."""

import copy
import json
from functools import cache
from pathlib import Path

import helm_python as helm
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "baton"
EXAMPLES = {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml"))}
RELEASE, NAMESPACE = "shop", "prod"
WORKLOADS = ("StatefulSet", "Deployment", "Job", "Pod", "DaemonSet")


def example(name):
    """The values of an example file."""
    return yaml.safe_load(EXAMPLES[name].read_text()) or {}


def merged(base, change):
    """`base` with `change` laid over it, as Helm does with two value files."""
    out = copy.deepcopy(base)
    for key, value in change.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else copy.deepcopy(value)
    return out


def check(values):
    """Raises HelmValuesError where the schema refuses the values."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)


def render_texts(values, name=RELEASE, namespace=NAMESPACE, **how):
    """Every rendered file by its path; the schema is asked first, as an install does."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        return chart.render(values, name=name, namespace=namespace, **how)


@cache
def _render(values, how):
    texts = render_texts(json.loads(values), **dict(how))
    files = sorted(path for path in texts if not path.endswith("NOTES.txt"))
    return [doc for path in files for doc in yaml.load_all(texts[path], getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if doc]


def render(values, **how):
    """Every rendered object; a copy, so that tests can't disturb each other."""
    return copy.deepcopy(_render(json.dumps(values, sort_keys=True), tuple(sorted(how.items()))))


def rendered(name):
    """The objects of an example."""
    return render(example(name))


def of_kind(objects, *kinds):
    """Those of some kinds."""
    return [obj for obj in objects if obj["kind"] in kinds]


def named(objects, kind, name):
    """The one of that kind and name."""
    found = [obj for obj in of_kind(objects, kind) if obj["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def pod_of(workload):
    """Metadata and spec of the pods that a workload makes."""
    if workload["kind"] == "Pod":
        return workload["metadata"], workload["spec"]
    template = workload["spec"]["template"]
    return template["metadata"], template["spec"]


def pods(objects):
    """(workload's kind/name, pod metadata, pod spec) of every workload."""
    return [(f"{w['kind']}/{w['metadata']['name']}", *pod_of(w)) for w in of_kind(objects, *WORKLOADS)]


def containers(spec):
    """Every container of a pod spec, the first ones included."""
    return spec.get("initContainers", []) + spec["containers"]


def leaves(values, path=()):
    """(path, value) of every value that is no further mapping; an empty mapping is a leaf."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, values


def at(path, value):
    """A mapping that holds only `value`, at that path."""
    for key in reversed(path):
        value = {key: value}
    return value
