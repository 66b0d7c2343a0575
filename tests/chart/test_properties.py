"""What the rendered objects promise: security, placement, probes, volumes, rights, secrets. Properties, not files."""

import json
import re

import pytest

from chart import EXAMPLES, containers, example, merged, named, of_kind, pod_of, pods, render, rendered

SERVING = ("StatefulSet", "Deployment")
SHELLS = re.compile(r"(^|/)(ba|da|a|z|k)?sh$")


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_container_runs_as_root_or_writes_to_its_image(name):
    for pod, _, spec in pods(rendered(name)):
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, pod
        for container in containers(spec):
            context = container["securityContext"]
            assert context["runAsNonRoot"] is True and context["readOnlyRootFilesystem"] is True and context["privileged"] is False, pod
            assert "runAsUser" not in context and context["capabilities"]["drop"] == ["ALL"], pod


def restricted(spec):
    """What the Pod Security Standard `restricted` (with `baseline` in it) forbids in a pod spec, in words. Fields from the standard's text, v1.25 to v1.37."""
    found = []
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            found.append(field)
    allowed_volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    for volume in spec.get("volumes", []):
        if not (set(volume) - {"name"}) <= allowed_volumes:
            found.append(f"volume {volume['name']}")
    pod = spec.get("securityContext", {})
    if pod.get("sysctls"):
        found.append("sysctls")
    for container in containers(spec) + spec.get("ephemeralContainers", []):
        context, name = container.get("securityContext", {}), container["name"]
        if any(port.get("hostPort") for port in container.get("ports", [])):
            found.append(f"{name}: hostPort")
        if context.get("privileged"):
            found.append(f"{name}: privileged")
        if context.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: allowPrivilegeEscalation")
        capabilities = context.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []):
            found.append(f"{name}: capabilities not dropped")
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append(f"{name}: capabilities {sorted(capabilities['add'])}")
        if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            found.append(f"{name}: runAsNonRoot")
        if context.get("runAsUser", pod.get("runAsUser")) == 0:
            found.append(f"{name}: runAsUser 0")
        profile = context.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name}: seccompProfile")
        if context.get("procMount", "Default") != "Default" or "seLinuxOptions" in context or "windowsOptions" in context:
            found.append(f"{name}: procMount, seLinuxOptions or windowsOptions")
        for handler in [container.get(p, {}) for p in ("startupProbe", "livenessProbe", "readinessProbe")]:
            if any("host" in handler.get(kind, {}) for kind in ("httpGet", "tcpSocket")):
                found.append(f"{name}: a probe names a host")
    return found


FORBIDDEN = [
    (("hostNetwork",), True), (("hostPID",), True), (("hostIPC",), True), (("volumes", 0, "hostPath"), {"path": "/"}), (("volumes", 0, "nfs"), {"server": "a", "path": "/"}),
    (("securityContext", "sysctls"), [{"name": "kernel.shm_rmid_forced", "value": "0"}]), (("securityContext", "runAsUser"), 0), (("securityContext", "seccompProfile"), {}),
    (("containers", 0, "ports", 0, "hostPort"), 1), (("containers", 0, "securityContext", "privileged"), True), (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
    (("containers", 0, "securityContext", "capabilities", "drop"), ["NET_RAW"]), (("containers", 0, "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
    (("containers", 0, "securityContext", "runAsNonRoot"), False), (("containers", 0, "securityContext", "runAsUser"), 0),
    (("containers", 0, "securityContext", "seccompProfile"), {"type": "Unconfined"}), (("containers", 0, "securityContext", "procMount"), "Unmasked"),
    (("containers", 0, "livenessProbe", "httpGet", "host"), "127.0.0.1"), (("initContainers", 0, "securityContext", "allowPrivilegeEscalation"), True),
]


@pytest.mark.parametrize("path, value", FORBIDDEN, ids=[".".join(map(str, path)) for path, _ in FORBIDDEN])
def test_the_check_of_the_profile_finds_what_the_profile_forbids(path, value):
    _, spec = pod_of(named(rendered("production"), "StatefulSet", "shop-baton-db"))
    inner = spec
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert len(restricted(spec)) >= 1


@pytest.mark.parametrize("name", ["minimal", "production"])
def test_pods_are_within_the_pod_security_profile_restricted(name):
    for pod, _, spec in pods(rendered(name)):
        assert restricted(spec) == [], pod


def test_only_the_agent_with_a_real_address_leaves_the_profile_and_only_for_that():
    found = {pod: restricted(spec) for pod, _, spec in pods(rendered("bare-metal-vip")) if restricted(spec)}
    assert found == {"StatefulSet/shop-baton-db": ["hostNetwork", "database: allowPrivilegeEscalation", "database: capabilities ['NET_ADMIN', 'NET_RAW']"]}


def test_beside_existing_servers_only_the_nodes_network_leaves_the_profile():
    found = {pod: restricted(spec) for pod, _, spec in pods(rendered("existing")) if restricted(spec)}
    assert found == {"StatefulSet/shop-baton-relay": ["hostNetwork"], "Deployment/shop-baton-controller": ["hostNetwork"]}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_container_has_resources_and_a_tagged_image(name):
    for pod, _, spec in pods(rendered(name)):
        for container in containers(spec):
            assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"], pod
            tag = container["image"].rpartition(":")[2]
            assert tag and tag != "latest" and "/" not in tag, container["image"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_everything_that_serves_has_the_three_probes_and_none_restarts_for_somebody_elses_fault(name):
    for workload in of_kind(rendered(name), *SERVING):
        for container in pod_of(workload)[1]["containers"]:
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] in ports
                assert container[probe]["timeoutSeconds"] <= container[probe]["periodSeconds"]
            live, ready = (container[p]["httpGet"]["path"] for p in ("livenessProbe", "readinessProbe"))
            assert live != ready, "liveness asks about the process, readiness about its service"
            assert (container["livenessProbe"]["failureThreshold"]) * container["livenessProbe"]["periodSeconds"] >= 30


@pytest.mark.parametrize("name", EXAMPLES)
def test_everything_that_serves_is_spread_and_has_a_disruption_budget(name):
    objects = rendered(name)
    for workload in of_kind(objects, *SERVING):
        _, spec = pod_of(workload)
        assert "podAntiAffinity" in spec["affinity"]
        assert [c["topologyKey"] for c in spec["topologySpreadConstraints"]] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        budget = named(objects, "PodDisruptionBudget", workload["metadata"]["name"])["spec"]
        assert budget["maxUnavailable"] == 1 and budget["selector"] == workload["spec"]["selector"]


def test_production_insists_on_different_nodes():
    for workload in of_kind(rendered("production"), *SERVING):
        assert pod_of(workload)[1]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]


def test_relays_avoid_the_servers_nodes():
    _, spec = pod_of(named(rendered("minimal"), "StatefulSet", "shop-baton-relay"))
    terms = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert any(t["podAffinityTerm"]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "db" for t in terms)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_keeps_data_has_a_volume_claim(name):
    for workload in of_kind(rendered(name), "StatefulSet"):
        claims = workload["spec"]["volumeClaimTemplates"]
        assert [claim["metadata"]["name"] for claim in claims] == ["data"]
        assert "persistentVolumeClaimRetentionPolicy" not in workload["spec"], "volumes outlive the release"
        _, spec = pod_of(workload)
        assert any(m["name"] == "data" for c in spec["containers"] for m in c["volumeMounts"])


def rules(role):
    """(group, resource, names, verbs) one by one."""
    return sorted(
        (group, resource, tuple(rule.get("resourceNames", [])), tuple(rule["verbs"]))
        for rule in role["rules"] for group in rule["apiGroups"] for resource in rule["resources"])


def test_the_rights_of_the_controllers_are_exactly_what_they_need():
    slices = ("shop-baton-primary", "shop-baton-replicas")
    assert rules(named(rendered("minimal"), "Role", "shop-baton-controller")) == [
        ("", "events", (), ("create",)),
        ("", "pods", ("shop-baton-db-0", "shop-baton-db-1", "shop-baton-db-2"), ("get", "patch")),
        ("", "services", slices, ("get",)),
        ("discovery.k8s.io", "endpointslices", (), ("create",)),
        ("discovery.k8s.io", "endpointslices", slices, ("get", "update")),
    ]
    assert [r[1] for r in rules(named(rendered("existing"), "Role", "shop-baton-controller"))].count("pods") == 0


def test_the_job_that_makes_the_secret_may_touch_no_other_one():
    assert rules(named(rendered("minimal"), "Role", "shop-baton-secrets")) == [
        ("", "secrets", (), ("create",)), ("", "secrets", ("shop-baton-secrets",), ("get", "update"))]


@pytest.mark.parametrize("name", EXAMPLES)
def test_only_who_needs_it_gets_a_token_for_the_kubernetes_api(name):
    objects = rendered(name)
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []
    holders = {pod for pod, _, spec in pods(objects) if spec["automountServiceAccountToken"]}
    wanted = {"Job/shop-baton-secrets"} if name != "existing" else set()
    if name != "bare-metal-vip":
        wanted.add("Deployment/shop-baton-controller")
    assert holders == wanted


def test_without_the_kubernetes_provider_nobody_may_write_endpoints():
    objects = rendered("bare-metal-vip")
    assert [o["metadata"]["name"] for o in of_kind(objects, "Role")] == ["shop-baton-secrets"]
    assert not [o for o in of_kind(objects, "Service") if o["metadata"]["name"].endswith(("-primary", "-replicas"))]


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_shell_in_commands_and_no_secret_in_configmaps_or_arguments(name):
    objects = rendered(name)
    for pod, _, spec in pods(objects):
        for container in containers(spec):
            line = container["command"] + container.get("args", [])
            assert not [word for word in line if SHELLS.search(word)], pod
            for variable in container.get("env", []):
                assert "value" in variable or "fieldRef" in variable["valueFrom"] or variable["name"] == "MYSQL_PWD"
    for config in of_kind(objects, "ConfigMap"):
        for line in "\n".join(config["data"].values()).splitlines():
            key = line.partition("=")[0].strip()
            assert key not in ("password", "token", "replication_password"), line


@pytest.mark.parametrize("name", EXAMPLES)
def test_secrets_are_mounted_key_by_key_readable_by_the_group_only(name):
    for pod, _, spec in pods(rendered(name)):
        for volume in spec.get("volumes", []):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, pod
                assert volume["name"] != "secrets" or volume["secret"]["items"], f"{pod}: all of the Secret"


def keys_made(objects):
    args = pod_of(named(objects, "Job", "shop-baton-secrets"))[1]["containers"][0]["args"]
    return {args[i + 1] for i, arg in enumerate(args) if arg == "--key"}


def keys_read(objects):
    found = set()
    for _, _, spec in pods(objects):
        found |= {item["key"] for volume in spec.get("volumes", []) if volume["name"] == "secrets" for item in volume["secret"]["items"]}
        found |= {v["valueFrom"]["secretKeyRef"]["key"] for c in containers(spec) for v in c.get("env", []) if "secretKeyRef" in v.get("valueFrom", {})}
    return found


@pytest.mark.parametrize(
    "values",
    [{}, {"database": {"name": ""}}, {"etcd": {"enabled": False}, "externalEtcd": {"endpoints": ["http://e:2379"], "user": "u"}}],
    ids=["minimal", "no_app", "etcd_user"],
)
def test_the_job_makes_the_keys_that_pods_read_and_no_others(values):
    objects = render(values)
    assert keys_made(objects) == keys_read(objects)


def hook(obj):
    return obj["metadata"].get("annotations", {}).get("helm.sh/hook", "")


def test_the_secret_is_made_before_everything_and_is_no_part_of_the_release():
    objects = rendered("minimal")
    assert of_kind(objects, "Secret") == []
    made = [o for o in objects if o["metadata"]["name"] == "shop-baton-secrets"]
    assert sorted(o["kind"] for o in made) == ["Job", "Role", "RoleBinding", "ServiceAccount"]
    weights = {o["kind"]: int(o["metadata"]["annotations"]["helm.sh/hook-weight"]) for o in made}
    assert all(hook(o) == "pre-install,pre-upgrade" for o in made) and weights["Job"] > max(w for k, w in weights.items() if k != "Job")


UPGRADES = [(a, b) for a in EXAMPLES for b in EXAMPLES if a != b]


@pytest.mark.parametrize("before, after", UPGRADES, ids=lambda name: name)
def test_an_upgrade_keeps_what_kubernetes_can_not_change(before, after):
    old, new = rendered(before), render(example(after), is_upgrade=True, is_install=False)
    for workload in of_kind(old, *SERVING):
        successor = [w for w in of_kind(new, workload["kind"]) if w["metadata"]["name"] == workload["metadata"]["name"]]
        for other in successor:
            assert other["spec"]["selector"] == workload["spec"]["selector"]
            for field in ("serviceName", "podManagementPolicy"):
                assert other["spec"].get(field) == workload["spec"].get(field)
            claims = lambda w: [c["metadata"]["name"] for c in w["spec"].get("volumeClaimTemplates", [])]
            assert claims(other) == claims(workload), "volumes are found by these names"
    kept = {("StatefulSet", "shop-baton-relay"), ("Deployment", "shop-baton-controller")}
    assert kept <= {(o["kind"], o["metadata"]["name"]) for o in new}


def volume_names(objects):
    """The names of the volume claims, as Kubernetes makes them."""
    return {
        f"{claim['metadata']['name']}-{w['metadata']['name']}-{number}"
        for w in of_kind(objects, "StatefulSet") for claim in w["spec"]["volumeClaimTemplates"] for number in range(w["spec"]["replicas"])}


def test_an_upgrade_from_minimal_to_production_finds_every_volume_again():
    old, new = rendered("minimal"), render(example("production"), is_upgrade=True, is_install=False)
    assert {"data-shop-baton-db-2", "data-shop-baton-etcd-0", "data-shop-baton-relay-1"} <= volume_names(old)
    assert volume_names(old) <= volume_names(new)


def test_an_upgrade_between_value_files_keeps_the_secret_and_its_keys():
    old, new = rendered("minimal"), render(example("production"), is_upgrade=True, is_install=False)
    secrets = lambda objects: {v["secret"]["secretName"] for _, _, spec in pods(objects) for v in spec.get("volumes", []) if v["name"] == "secrets"}
    assert secrets(old) == secrets(new) == {"shop-baton-secrets"}
    assert keys_read(old) == keys_read(new)
    assert of_kind(new, "Secret") == [], "no rendered Secret could overwrite the one that the Job made"


def test_rendering_twice_gives_the_same():
    assert json.dumps(render({}), sort_keys=True) == json.dumps(render({}), sort_keys=True), "nothing random: an upgrade without a change changes nothing"


@pytest.mark.parametrize("name", ["minimal", "production"])
def test_network_policies_close_every_port_of_what_serves(name):
    objects = rendered(name)
    for workload in of_kind(objects, *SERVING):
        policy = named(objects, "NetworkPolicy", workload["metadata"]["name"])["spec"]
        assert policy["podSelector"] == workload["spec"]["selector"] and policy["policyTypes"] == ["Ingress"]
        opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
        assert opened == {port["containerPort"] for c in pod_of(workload)[1]["containers"] for port in c["ports"]}
        assert all(rule["from"] for rule in policy["ingress"]), "an empty list would let everybody in"


def test_agents_are_the_servers_first_process_and_know_their_node():
    _, spec = pod_of(named(rendered("minimal"), "StatefulSet", "shop-baton-db"))
    container, = spec["containers"]
    assert container["command"][0].endswith("/baton-failover") and container["args"][0] == "agent" and "--exec" in container["args"]
    host = next(v for v in container["env"] if v["name"] == "BATON_AGENT_ADVERTISE_HOST")
    assert host["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    _, alone = pod_of(named(render({"failureDomain": "pod"}), "StatefulSet", "shop-baton-relay"))
    host = next(v for v in alone["containers"][0]["env"] if v["name"] == "BATON_RELAY_ADVERTISE_HOST")
    assert host["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"


@pytest.mark.parametrize("replicas", [2, 9])
def test_the_relay_that_acknowledges_lets_the_others_in(replicas):
    objects = render(merged(example("minimal"), {"relay": {"replicas": replicas}}))
    files = [text for name, text in named(objects, "ConfigMap", "shop-baton-relay")["data"].items() if name.endswith(".toml")]
    assert len(files) == replicas
    accounts = {re.search(r"\[upstream\]\nuser = \"(.*)\"", text)[1] for text in files}
    for text in files:
        users = dict(re.findall(r"\[\[users\]\]\nname = \"(.*)\"\npassword_file = \"(.*)\"", text))
        assert {users[account] for account in accounts} == {"/etc/baton/secrets/relay-password"}, "any of them may come to feed the others"
        assert users["repl"] == "/etc/baton/secrets/replication-password"


def test_server_ids_are_unlike_each_other():
    objects = render(merged(example("minimal"), {"relay": {"replicas": 9}, "database": {"replicas": 9}}))
    texts = [t for config in of_kind(objects, "ConfigMap") for t in config["data"].values()]
    ids = [int(n) for text in texts for n in re.findall(r"^server_id = (\d+)$", text, re.M)]
    assert len(ids) == len(set(ids)) == 18


def test_helm_test_asks_for_the_lag_and_writes_through_the_primary_service():
    pod = named(rendered("minimal"), "Pod", "shop-baton-test")
    assert hook(pod) == "test"
    lag, write = pod["spec"]["containers"]
    assert lag["args"][-1] == "http://shop-baton-lag:8090/v1/lag"
    assert "--host=shop-baton-primary" in write["args"] and "REPLACE INTO" in write["args"][-1]
    assert [c["name"] for c in named(rendered("existing"), "Pod", "shop-baton-test")["spec"]["containers"]] == ["lag"]
