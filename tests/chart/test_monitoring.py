"""Alerts and dashboard use figures that exist, and promtool takes the rules."""

import json
import re
import subprocess

import pytest
import yaml

from chart import CHART, ROOT, named, of_kind, render, rendered

ALERTS = (CHART / "files" / "alerts.yaml").read_text()
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
FIGURE = re.compile(r"\bbaton_(?:relay|failover)_[a-z_]+")
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def known(figure):
    """Whether the programs' sources name a figure; they build names from a prefix, and some from parts."""
    program, _, short = figure.removeprefix("baton_").partition("_")
    source = "\n".join(p.read_text() for p in (ROOT / program / "src").rglob("*metrics*.rs") if "tests" not in p.parts)
    short = SUFFIX.sub("", short)
    if f'"{short}"' in source or f'"{figure}"' in source or f'"baton_{program}_{short}"' in source:
        return True
    lag = re.fullmatch(r"replica_(received|applied)_lag_(transactions|bytes|seconds)", short)
    return bool(lag) and 'format!("replica_{what}_lag_{unit}")' in source


def expressions():
    for group in yaml.safe_load(ALERTS)["groups"]:
        for rule in group["rules"]:
            yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"panel {panel['id']}{target['refId']}")


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_figure_in_an_expression_exists(expression):
    figures = FIGURE.findall(expression)
    assert figures
    for figure in figures:
        assert known(figure), f"{figure} is shown by no program"


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    for group in yaml.safe_load(ALERTS)["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith(".")


def test_the_rendered_rules_are_those_of_the_file():
    rule = named(render({"prometheusRule": {"enabled": True, "lagSeconds": 7}}), "PrometheusRule", "shop-baton-alerts")
    assert rule["spec"] == yaml.safe_load(ALERTS.replace("$LAG_SECONDS", "7"))


def promtool(tmp_path, rules):
    file = tmp_path / "rules.yaml"
    file.write_text(rules)
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules(tmp_path):
    promtool(tmp_path, ALERTS.replace("$LAG_SECONDS", "30"))


def test_promtool_takes_the_dashboards_expressions(tmp_path):
    targets = [target["expr"].replace("$namespace", "prod") for panel in DASHBOARD["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:number:{n}", "expr": expression} for n, expression in enumerate(targets)]
    promtool(tmp_path, json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))


def test_the_dashboard_is_rendered_as_it_is():
    config = named(rendered("production"), "ConfigMap", "shop-baton-dashboard")
    assert json.loads(config["data"]["shop-baton.json"]) == DASHBOARD
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_each_pod_is_scraped_by_way_of_one_service():
    objects = rendered("production")
    for monitor in of_kind(objects, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        services = [s for s in of_kind(objects, "Service") if wanted <= s["metadata"]["labels"].items()]
        assert len(services) == 1, monitor["metadata"]["name"]
        assert monitor["spec"]["endpoints"][0]["port"] in [p["name"] for p in services[0]["spec"]["ports"]]
