"""The chart lints, renders, and gives what Kubernetes takes; nothing in it refers to what is not there."""

import re

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

import crds
from chart import CHART, EXAMPLES, containers, example, merged, named, of_kind, pod_of, pods, render, render_texts, rendered, WORKLOADS

VERSIONS = ["1.25", "1.31", "1.37"]
# Combinations that no example has.
VARIANTS = {
    "tls_everywhere": {"etcd": {"tls": {"secret": "etcd-tls"}}, "relay": {"tls": {"secret": "relay-tls"}, "protectReads": True}},
    "etcd_with_password": {"etcd": {"enabled": False}, "externalEtcd": {"endpoints": ["http://10.0.0.1:2379"], "user": "baton"}},
    "nothing_optional": {
        "tests": {"enabled": False}, "bootstrap": {"enabled": False}, "networkPolicy": {"enabled": False}, "serviceAccount": {"create": False, "name": "mine"},
        "relay": {"pdb": {"enabled": False}, "antiAffinity": "none", "spreadOver": ""}, "address": {"provider": "none"}, "database": {"name": ""},
    },
    "named_otherwise": {"fullnameOverride": "a-name-of-forty-characters-that-is-a-lot", "cluster": "other", "commonLabels": {"team": "db"}, "commonAnnotations": {"note": "x"}},
    "own_passwords": {"secrets": {"values": {key: "a long secret" for key in (
        "token", "relay-password", "replication-password", "lag-password", "probe-password", "agent-password", "root-password", "app-password")}}},
}


EVERYTHING = [pytest.param(values, id=name) for name, values in ({name: example(name) for name in EXAMPLES} | VARIANTS).items()]


def test_lint_strict_finds_nothing():
    found = helm.lint(CHART, strict=True)
    assert found["errors"] == []
    assert [m for m in found["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", EVERYTHING)
def test_every_object_is_one_that_kubernetes_takes(values, version):
    objects = render(values)
    assert len(objects) > 10
    for obj in objects:
        if obj["kind"] in crds.SCHEMAS:
            crds.validate(obj)
        else:
            kubernetes_validate.validate(obj, version, strict=True)


@pytest.mark.parametrize("values", EVERYTHING)
def test_no_object_is_there_twice_and_all_bear_the_releases_namespace_and_labels(values):
    objects = render(values)
    names = [(obj["kind"], obj["metadata"]["name"]) for obj in objects]
    assert len(names) == len(set(names))
    for obj in objects:
        assert obj["metadata"]["namespace"] == "prod", obj["metadata"]["name"]
        labels = obj["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "shop" and labels["app.kubernetes.io/component"]
        for key, value in labels.items():
            assert len(value) <= 63, f"{key} of {obj['metadata']['name']}"


@pytest.mark.parametrize("values", EVERYTHING)
def test_names_leave_room_for_what_kubernetes_appends(values):
    for obj in render(values):
        limit = {"StatefulSet": 52, "Job": 52, "Deployment": 52}.get(obj["kind"], 63)
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", obj["metadata"]["name"])
        assert len(obj["metadata"]["name"]) <= limit, obj["metadata"]["name"]


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


@pytest.mark.parametrize("values", EVERYTHING)
def test_selectors_find_pods_and_only_one_workloads(values):
    objects = render(values)
    everyone = pods(objects)
    for workload in of_kind(objects, "StatefulSet", "Deployment"):
        selector = workload["spec"]["selector"]["matchLabels"]
        found = [name for name, metadata, _ in everyone if selects(selector, metadata["labels"])]
        assert found == [f"{workload['kind']}/{workload['metadata']['name']}"]
    for obj in of_kind(objects, "Service", "PodDisruptionBudget"):
        selector = obj["spec"].get("selector")
        if obj["kind"] == "PodDisruptionBudget":
            selector = selector["matchLabels"]
        if selector is None:
            assert obj["metadata"]["name"].endswith(("-primary", "-replicas"))
            continue
        assert sum(selects(selector, metadata["labels"]) for _, metadata, _ in everyone) == 1, obj["metadata"]["name"]


@pytest.mark.parametrize("values", EVERYTHING)
def test_services_name_ports_that_the_pods_have(values):
    objects = render(values)
    for service in of_kind(objects, "Service"):
        selector = service["spec"].get("selector")
        if not selector:
            continue
        ports = [p for _, metadata, spec in pods(objects) if selects(selector, metadata["labels"]) for c in spec["containers"] for p in c.get("ports", [])]
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in [p["name"] for p in ports] + [p["containerPort"] for p in ports], service["metadata"]["name"]
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert backend["port"]["name"] in [p["name"] for p in named(objects, "Service", backend["name"])["spec"]["ports"]]


@pytest.mark.parametrize("values", EVERYTHING)
def test_stateful_sets_have_their_headless_service(values):
    objects = render(values)
    for workload in of_kind(objects, "StatefulSet"):
        service = named(objects, "Service", workload["spec"]["serviceName"])
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True, "members must find each other before they are ready"


@pytest.mark.parametrize("values", EVERYTHING)
def test_volumes_mounts_and_service_accounts_exist(values):
    objects = render(values)
    given = {"etcd-tls", "relay-tls", "shop-baton", "shop-etcd-client", "shop-database-ca", "shop-relay-tls"}
    made = {obj["metadata"]["name"] for obj in of_kind(objects, "Secret")} | {
        name for job in of_kind(objects, "Job") for name in _made_by(job)}
    for name, _, spec in pods(objects):
        claims = []
        for workload in of_kind(objects, "StatefulSet"):
            if name.endswith("/" + workload["metadata"]["name"]):
                claims = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounted = {m["name"] for c in containers(spec) for m in c.get("volumeMounts", [])}
        assert mounted == set(volumes) | set(claims), f"{name}: what is declared is mounted, and the other way round"
        for volume in volumes.values():
            if "configMap" in volume:
                named(objects, "ConfigMap", volume["configMap"]["name"])
            if "secret" in volume:
                assert volume["secret"]["secretName"] in made | given
        if account := spec.get("serviceAccountName"):
            assert account == "mine" or named(objects, "ServiceAccount", account)


def _made_by(job):
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return [args[args.index("--name") + 1]] if args[0] == "make-secret" else []


@pytest.mark.parametrize("values", EVERYTHING)
def test_configuration_files_that_commands_name_are_mounted(values):
    objects = render(values)
    for workload in of_kind(objects, *WORKLOADS):
        _, spec = pod_of(workload)
        replicas = workload["spec"].get("replicas", 1)
        for container in containers(spec):
            line = " ".join(container.get("command", []) + container.get("args", []))
            for path in re.findall(r"/etc/[^\s=]+", line):
                mount = max((m for m in container["volumeMounts"] if path.startswith(m["mountPath"] + "/")), key=lambda m: len(m["mountPath"]))
                volume = next(v for v in spec["volumes"] if v["name"] == mount["name"])
                if "configMap" not in volume:
                    continue
                data = named(objects, "ConfigMap", volume["configMap"]["name"])["data"]
                for index in range(replicas):
                    file = path.removeprefix(mount["mountPath"] + "/").replace("$(POD_NAME)", f"{workload['metadata']['name']}-{index}")
                    assert file in data, f"{file} of {workload['metadata']['name']}"


def test_notes_say_what_to_type_next():
    for name in EXAMPLES:
        texts = render_texts(example(name))
        notes = next(text for path, text in texts.items() if path.endswith("NOTES.txt"))
        assert "batonctl" in notes and "helm -n prod test shop" in notes
    minimal = next(text for path, text in render_texts({}).items() if path.endswith("NOTES.txt"))
    assert "shop-baton-primary.prod.svc:3306" in minimal and "get secret shop-baton-secrets" in minimal


def test_a_release_that_bears_the_charts_name_is_not_named_twice():
    names = {obj["metadata"]["name"] for obj in render({}, name="baton")}
    assert "baton-primary" in names and not any("baton-baton" in name for name in names)


def test_two_releases_in_one_namespace_share_no_name_and_no_pod():
    one, other = render({}, name="one"), render({}, name="other")
    assert not {(o["kind"], o["metadata"]["name"]) for o in one} & {(o["kind"], o["metadata"]["name"]) for o in other}
    for workload in of_kind(one, "StatefulSet", "Deployment"):
        for _, metadata, _ in pods(other):
            assert not selects(workload["spec"]["selector"]["matchLabels"], metadata["labels"])


def test_the_configuration_of_a_pod_changes_its_template():
    before, after = rendered("minimal"), render(merged(example("minimal"), {"relay": {"log": {"retain": "1d"}}}))
    note = lambda objects, kind, name: pod_of(named(objects, kind, name))[0]["annotations"]["baton/config"]
    assert note(before, "StatefulSet", "shop-baton-relay") != note(after, "StatefulSet", "shop-baton-relay")
    assert note(before, "Deployment", "shop-baton-controller") == note(after, "Deployment", "shop-baton-controller")


def test_yaml_of_every_file_has_no_key_twice():
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node, deep=False):
        keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{[k for k in keys if keys.count(k) > 1]} twice, line {node.start_mark.line}"
        return yaml.SafeLoader.construct_mapping(loader, node, deep)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    for param in EVERYTHING:
        for path, text in render_texts(param.values[0]).items():
            if not path.endswith("NOTES.txt"):
                list(yaml.load_all(text, Strict))
