"""values.schema.json catches every typo and bad values; and the README lists all values."""

import copy

import helm_python as helm
import pytest
import yaml

import values_table
from chart import CHART, EXAMPLES, at, check, example, leaves, merged, render

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
# Maps whose keys are the user's own.
FREE = ("commonLabels", "commonAnnotations", "annotations", "nodeSelector", "podAnnotations", "podLabels", "labels", "config")


def sections(values, path=()):
    """Every mapping within the values whose keys are the chart's."""
    if isinstance(values, dict) and not (path and path[-1] in FREE):
        yield path
        for key, value in values.items():
            yield from sections(value, (*path, key))


@pytest.mark.parametrize("path", list(sections(DEFAULTS)), ids=lambda path: ".".join(path) or "top")
def test_a_misspelt_key_is_refused_wherever_it_stands(path):
    typos = ["replica", "Enabled", "sotrageClass", "x"]
    for typo in typos:
        with pytest.raises(helm.HelmValuesError, match=typo):
            check(at((*path, typo), "value"))


def test_each_key_with_a_letter_missing_is_refused():
    for path, _ in leaves(DEFAULTS):
        if not any(key in FREE for key in path[:-1]):
            with pytest.raises(helm.HelmValuesError):
                check(at((*path[:-1], path[-1][:-1]), "value"))


def test_each_value_of_a_wrong_type_is_refused():
    for path, value in leaves(DEFAULTS):
        wrong = {"a": {"b": 1}} if not isinstance(value, dict) else ["a"]
        with pytest.raises(helm.HelmValuesError):
            check(at(path, wrong))


BAD = [
    (("relay", "replicas"), 0), (("relay", "replicas"), "two"), (("relay", "replicas"), 1.5), (("relay", "upstreamTls"), "on"), (("relay", "lagPoll"), "100ms"),
    (("relay", "log", "retain"), "7"), (("relay", "log", "retain"), "seven days"), (("relay", "log", "retainBytes"), "12G i"), (("relay", "log", "retainBytes"), 12),
    (("relay", "persistence", "size"), "20"), (("relay", "persistence", "size"), "20gb"), (("relay", "tls", "mode"), "verify"), (("relay", "serverIdBase"), 0),
    (("relay", "resources", "requests"), {"memry": "1Gi"}), (("relay", "resources", "requests"), {"memory": "1 GB"}), (("relay", "resources", "request"), {}),
    (("relay", "tolerations"), [{"key": "a", "effct": "NoSchedule"}]), (("relay", "tolerations"), [{"key": "a", "effect": "noschedule"}]), (("relay", "affinity"), {"podAntiAfinity": {}}),
    (("relay", "antiAffinity"), "yes"), (("relay", "pdb", "maxUnavailable"), "one"), (("relay", "nodeSelector"), {"a": 1}),
    (("controller", "probe", "timeout"), "1"), (("controller", "probe", "timeout"), 1), (("controller", "guard", "max"), -1),
    (("database", "flavor"), "postgres"), (("database", "runAsUser"), 0), (("database", "name"), "a-b`; DROP"), (("database", "priority"), -1), (("database", "updateStrategy"), "Recreate"),
    (("database", "config"), {"sync_binlog": 0}), (("database", "config"), {"datadir": "/tmp"}), (("database", "config"), {"rpl_semi_sync_master_timeout": 10}),
    (("database", "config"), {"read_only": 0}), (("database", "config"), {"max-connections": 1}), (("database", "fenceAfter"), "soon"),
    (("nodes",), [{"name": "db-1"}]), (("nodes",), [{"name": "db-1", "addresses": []}]), (("nodes",), [{"name": "db-1", "addresses": ["10.0.0.1"]}]),
    (("nodes",), [{"name": "db-1", "addresses": ["10.0.0.1:3306"], "adress": "x"}]), (("nodes",), {"db-1": {}}), (("nodes",), [{"name": "db 1", "addresses": ["10.0.0.1:3306"]}]),
    (("address", "provider"), "vip"), (("address", "vip"), "10.0.0.100"), (("address",), {"provider": "agent"}), (("address", "interface"), "a-name-that-is-too-long"),
    (("externalEtcd", "endpoints"), ["10.0.0.1:2379"]), (("externalEtcd", "endpoints"), ["http://10.0.0.1"]), (("etcd", "enabled"), False), (("etcd", "enabled"), "true"),
    (("services", "primary", "type"), "ExternalName"), (("services", "primary", "port"), 70000), (("services", "primary", "maxLag"), "5s"), (("services", "replicas", "maxLag"), 5),
    (("ingress",), {"enabled": True}), (("ingress", "host"), "http://baton.example.com"), (("networkPolicy", "clients"), [{"podSelectr": {}}]),
    (("networkPolicy", "clients"), [{"ipBlock": {"cdir": "10.0.0.0/8"}}]), (("image", "pullPolicy"), "always"), (("image", "repository"), "baton:latest"), (("image", "tag"), "a b"),
    (("logFormat",), "logfmt"), (("failureDomain",), "rack"), (("cluster",), "Shop"), (("fullnameOverride",), "a" * 41), (("secrets", "values"), {"tokn": "12345678"}),
    (("secrets", "values"), {"token": "short"}), (("imagePullSecrets",), ["registry"]), (("relay", "upstreamTls"), "verify"), (("serviceMonitor", "interval"), "15"),
    (("dashboard", "labels"), {"grafana_dashboard": 1}), (("accounts", "agent"), "a'b"), (("tests", "enabled"), 1), (("bootstrap", "timeout"), "4m"),
]


@pytest.mark.parametrize("path, value", BAD, ids=lambda x: ".".join(x) if isinstance(x, tuple) else str(x)[:40])
def test_a_bad_value_is_refused_by_name(path, value):
    with pytest.raises(helm.HelmValuesError) as refusal:
        check(at(path, value))
    assert path[0] in str(refusal.value) or "required" in str(refusal.value) or path[0] == "etcd"


def test_the_defaults_and_the_examples_are_taken():
    check({})
    check(copy.deepcopy(DEFAULTS))
    for name in EXAMPLES:
        check(example(name))


@pytest.mark.parametrize(
    "values, says",
    [
        ({"secrets": {"values": {"token": "12345678"}}}, "lacks the key relay-password"),
        ({"relay": {"protectReads": True}, "serviceMonitor": {"enabled": True}}, "exclude each other"),
        (merged(example("bare-metal-vip"), {"database": {"hostNetwork": False}}), "hostNetwork"),
        (merged(example("bare-metal-vip"), {"database": {"image": {"hasBaton": False}}}), "hasBaton"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_the_reason(values, says):
    with pytest.raises(helm.HelmError, match=says):
        render(values)


def test_every_value_is_explained_and_listed_in_the_readme():
    explained = {path for path, _ in values_table.documented((CHART / "values.yaml").read_text())}
    for path, _ in leaves(DEFAULTS):
        assert any(path[: n + 1] in explained for n in range(len(path))), f"{'.'.join(path)} has no comment"
    inside = values_table.parts((CHART / "README.md").read_text())[1]
    assert inside == values_table.table(), "run: tests/chart/values_table.py --write"


def test_the_readme_lists_the_keys_of_the_secret():
    readme = (CHART / "README.md").read_text()
    job = next(o for o in render({}) if o["kind"] == "Job" and o["metadata"]["name"].endswith("-secrets"))
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    keys = [args[i + 1] for i, arg in enumerate(args) if arg == "--key"]
    assert len(keys) == 8
    for key in keys:
        assert f"| `{key}` |" in readme
