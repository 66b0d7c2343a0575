//! HTTP: routes, status, metrics, event stream.
