"""Schemas of the Prometheus operator's kinds, as far as the chart uses them: what is not here is refused."""

import jsonschema

_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def _kind(kind, spec):
    metadata = _object(["name", "namespace", "labels"], name={"type": "string"}, namespace={"type": "string"}, labels=_STRINGS, annotations=_STRINGS)
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


_DURATION = {"type": "string", "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"}
_RULE = _object(["alert", "expr"], alert={"type": "string"}, expr={"type": "string"}, **{"for": _DURATION}, labels=_STRINGS, annotations=_STRINGS)
_ENDPOINT = _object(
    ["port"],
    port={"type": "string"},
    path={"type": "string"},
    interval=_DURATION,
    authorization=_object(type={"type": "string"}, credentials=_object(["key"], name={"type": "string"}, key={"type": "string"}, optional={"type": "boolean"})),
)
SCHEMAS = {
    "ServiceMonitor": _kind(
        "ServiceMonitor",
        _object(
            ["selector", "endpoints"],
            selector=_object(matchLabels=_STRINGS),
            namespaceSelector=_object(matchNames={"type": "array", "items": {"type": "string"}}),
            endpoints={"type": "array", "minItems": 1, "items": _ENDPOINT},
        ),
    ),
    "PrometheusRule": _kind(
        "PrometheusRule",
        _object(["groups"], groups={"type": "array", "items": _object(["name", "rules"], name={"type": "string"}, rules={"type": "array", "items": _RULE})}),
    ),
}


def validate(doc):
    jsonschema.validate(doc, SCHEMAS[doc["kind"]])
