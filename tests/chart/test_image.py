"""The image holds what the chart and docker-compose.yaml start, runs as an ordinary user, and needs no shell. Building it is not tried here."""

import re

import yaml

from chart import EXAMPLES, ROOT, containers, pods, rendered

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())


def stages():
    """Instructions of every stage by its name, continuation lines joined."""
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    found, name = {}, None
    for line in joined.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            name = rest.rpartition(" ")[2]
            found[name] = [("FROM", rest)]
        elif word and not word.startswith("#") and name:
            found[name].append((word, rest))
    return found


def programs(stage):
    copied = [word.rpartition("/")[2] for kind, rest in stage if kind == "COPY" for word in rest.split() if word.startswith("/out/baton")]
    made = re.findall(r"cp \S+ /usr/local/bin/(\S+)", " ".join(rest for kind, rest in stage if kind == "RUN"))
    return set(copied) | set(made)


def test_every_base_image_can_be_chosen():
    for stage in stages().values():
        base = stage[0][1].split()[0]
        assert re.fullmatch(r"\$\{[A-Z_]+\}", base), base
        assert re.search(rf"^ARG {base[2:-1]}=\S+$", DOCKERFILE, re.M)


def test_the_default_stage_is_the_last_and_runs_nothing_while_it_is_built():
    name, stage = list(stages().items())[-1]
    assert name == "baton"
    assert not [rest for kind, rest in stage if kind == "RUN"], "its base has no shell"


def test_images_run_as_an_ordinary_user_with_a_health_check_and_no_shell():
    for name in ("baton", "database"):
        stage = dict(stages()[name])
        assert not stage["USER"].startswith(("0", "root"))
        assert re.search(r'CMD \["/usr/local/bin/baton-failover", "health"', stage["HEALTHCHECK"])
        for kind in ("CMD", "ENTRYPOINT"):
            assert kind not in stage or stage[kind].startswith("["), "the shell form needs a shell"


def test_only_the_programs_copy_that_needs_it_has_capabilities():
    given = re.findall(r"setcap (\S+) (\S+)", DOCKERFILE)
    assert given == [("cap_net_admin,cap_net_raw+ep", "/usr/local/bin/baton-agent-vip")]


def test_the_images_have_every_program_that_the_chart_starts():
    baton, database = programs(stages()["baton"]), programs(stages()["database"])
    for name in EXAMPLES:
        for pod, _, spec in pods(rendered(name)):
            for container in containers(spec):
                directory, _, program = container["command"][0].rpartition("/")
                if not program.startswith("baton"):
                    continue
                # What the init container has installed comes from the first image.
                there = database if "baton-database" in container["image"] else baton
                assert program in there, f"{container['command'][0]} of {pod}"
                assert directory == "/opt/baton" or directory == "/usr/local/bin"


def test_compose_starts_programs_of_the_images_with_files_that_it_has():
    volumes, configs = set(COMPOSE["volumes"]), set(COMPOSE["configs"])
    for name, service in COMPOSE["services"].items():
        line = service.get("entrypoint", []) + service.get("command", [])
        program = line[0].rpartition("/")[2]
        stage = "database" if "database" in service["image"] else "baton"
        assert name == "etcd" or program in programs(stages()[stage]), name
        assert {v.partition(":")[0] for v in service.get("volumes", [])} <= volumes
        mounted = {c["source"]: c["target"] for c in service.get("configs", [])}
        assert set(mounted) <= configs
        for path in [word for word in line if word.startswith("/etc/baton/")]:
            assert path in mounted.values(), f"{path} of {name}"
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])


def test_compose_has_the_demonstrations_topology():
    names = set(COMPOSE["services"])
    assert {"etcd", "controller-1", "controller-2", "relay-1", "relay-2"} | {f"db-{n}" for n in range(1, 6)} <= names
    ids = [re.search(r"--server-id=(\d+)", " ".join(s["command"])) for s in COMPOSE["services"].values()]
    ids = [m[1] for m in ids if m] + [s["environment"]["BATON_RELAY_SERVER_ID"] for n, s in COMPOSE["services"].items() if n.startswith("relay")]
    assert len(ids) == len(set(ids)) == 7
