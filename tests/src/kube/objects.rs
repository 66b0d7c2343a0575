//! The API's objects and what may be done with them, with optimistic concurrency as Kubernetes has it. No sockets.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

/// What kinds of object there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Core.
    Service,
    /// Core.
    Pod,
    /// Core.
    Event,
    /// Core.
    Secret,
    /// Core.
    ConfigMap,
    /// discovery.k8s.io/v1.
    EndpointSlice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Service, Self::Pod, Self::Event, Self::Secret, Self::ConfigMap, Self::EndpointSlice];

    /// API group; empty for the core.
    pub fn group(self) -> &'static str {
        if self == Self::EndpointSlice { "discovery.k8s.io" } else { "" }
    }

    /// As in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::Event => "Event",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// As in paths.
    pub fn resource(self) -> String {
        format!("{}s", self.name().to_ascii_lowercase())
    }
}

/// An error as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub code: u16,
    /// `Conflict`, `NotFound`, ...
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Refused {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    /// As JSON.
    pub fn status(&self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": self.code, "reason": self.reason, "message": self.message})
    }
}

type Key = (Kind, String, String);

/// Every object; each change gets the next resource version.
#[derive(Default)]
pub struct Objects(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    version: u64,
    objects: BTreeMap<Key, Value>,
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value, Refused> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.lock().objects.get(&key).cloned().ok_or_else(|| gone(kind, name))
    }

    /// All of a kind.
    pub fn list(&self, kind: Kind, namespace: &str) -> Vec<Value> {
        let inner = self.lock();
        let of_kind = inner.objects.iter().filter(|((k, n, _), _)| *k == kind && n == namespace);
        of_kind.map(|(_, value)| value.clone()).collect()
    }

    /// A new one; 409 if there is one of that name.
    pub fn create(&self, kind: Kind, namespace: &str, mut object: Value) -> Result<Value, Refused> {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let metadata = metadata(&mut object)?;
        if metadata.get("resourceVersion").is_some_and(|v| v.as_str() != Some("")) {
            return Err(Refused::new(400, "BadRequest", "resourceVersion should not be set on objects to be created"));
        }
        if let (None, Some(prefix)) = (metadata.get("name"), metadata.get("generateName").and_then(Value::as_str)) {
            let name = format!("{prefix}{version:05x}");
            metadata.insert("name".into(), json!(name));
        }
        let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(Refused::new(422, "Invalid", "metadata.name: Required value"));
        }
        metadata.insert("namespace".into(), json!(namespace));
        metadata.insert("uid".into(), json!(format!("00000000-0000-4000-8000-{version:012x}")));
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        metadata.entry("creationTimestamp").or_insert_with(|| json!("2026-01-01T00:00:00Z"));
        let key = (kind, namespace.to_owned(), name);
        if inner.objects.contains_key(&key) {
            return Err(Refused::new(
                409,
                "AlreadyExists",
                format!("{} \"{}\" already exists", kind.resource(), key.2),
            ));
        }
        inner.objects.insert(key, object.clone());
        Ok(object)
    }

    /// The whole object anew; 409 unless it is as it was read (the resource version, where one is given).
    pub fn replace(&self, kind: Kind, namespace: &str, name: &str, mut object: Value) -> Result<Value, Refused> {
        let mut inner = self.lock();
        let key = (kind, namespace.to_owned(), name.to_owned());
        let there = inner.objects.get(&key).cloned().ok_or_else(|| gone(kind, name))?;
        let metadata = metadata(&mut object)?;
        agree(metadata, &there, kind, name)?;
        let kept = ["uid", "creationTimestamp", "namespace", "name"];
        for field in kept {
            metadata.insert(field.into(), there["metadata"][field].clone());
        }
        if kind == Kind::EndpointSlice && object["addressType"] != there["addressType"] {
            return Err(Refused::new(422, "Invalid", "addressType: Invalid value: field is immutable"));
        }
        Ok(store(&mut inner, key, object))
    }

    /// JSON merge patch (RFC 7386); a `uid` or `resourceVersion` in it has to be the object's.
    pub fn merge(&self, kind: Kind, namespace: &str, name: &str, patch: &Value) -> Result<Value, Refused> {
        let mut inner = self.lock();
        let key = (kind, namespace.to_owned(), name.to_owned());
        let there = inner.objects.get(&key).cloned().ok_or_else(|| gone(kind, name))?;
        if let Some(metadata) = patch.get("metadata").and_then(Value::as_object) {
            agree(metadata, &there, kind, name)?;
        }
        let mut object = there;
        merge(&mut object, patch);
        Ok(store(&mut inner, key, object))
    }

    /// Removes it.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value, Refused> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.lock().objects.remove(&key).ok_or_else(|| gone(kind, name))
    }

    /// Creates it or replaces it, whatever is there: for the runner, which is the cluster.
    pub fn put(&self, kind: Kind, namespace: &str, name: &str, object: &Value) -> Value {
        match self.replace(kind, namespace, name, object.clone()) {
            Ok(stored) => stored,
            Err(_) => self.create(kind, namespace, object.clone()).unwrap_or(Value::Null),
        }
    }
}

fn store(inner: &mut Inner, key: Key, mut object: Value) -> Value {
    inner.version += 1;
    object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
    inner.objects.insert(key, object.clone());
    object
}

fn gone(kind: Kind, name: &str) -> Refused {
    Refused::new(404, "NotFound", format!("{} \"{name}\" not found", kind.resource()))
}

fn metadata(object: &mut Value) -> Result<&mut Map<String, Value>, Refused> {
    let Some(object) = object.as_object_mut() else { return Err(Refused::new(400, "BadRequest", "no object")) };
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    metadata.as_object_mut().ok_or_else(|| Refused::new(400, "BadRequest", "metadata is no object"))
}

/// What the writer says it has read is what is there.
fn agree(metadata: &Map<String, Value>, there: &Value, kind: Kind, name: &str) -> Result<(), Refused> {
    for field in ["resourceVersion", "uid"] {
        let claimed = metadata.get(field).filter(|value| !value.is_null());
        if claimed.is_some_and(|value| *value != there["metadata"][field]) {
            let message = format!(
                "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes to the latest version and try again",
                kind.resource()
            );
            return Err(Refused::new(409, "Conflict", message));
        }
    }
    Ok(())
}

fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    let Some(fields) = object.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: &str = "prod";

    fn slice(address: &str) -> Value {
        json!({"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [address]})
    }

    #[test]
    fn who_writes_over_what_it_has_not_read_is_refused() {
        let objects = Objects::default();
        let first = objects.create(Kind::EndpointSlice, NS, slice("1")).unwrap();
        assert_eq!(objects.create(Kind::EndpointSlice, NS, slice("1")).unwrap_err().reason, "AlreadyExists");
        let mut mine = first.clone();
        mine["endpoints"] = json!(["2"]);
        objects.replace(Kind::EndpointSlice, NS, "a", mine.clone()).unwrap();
        let late = objects.replace(Kind::EndpointSlice, NS, "a", mine).unwrap_err();
        assert_eq!((late.code, late.reason), (409, "Conflict"));
        assert_eq!(objects.get(Kind::EndpointSlice, NS, "a").unwrap()["endpoints"], json!(["2"]));
    }

    #[test]
    fn without_a_resource_version_the_last_writer_wins() {
        let objects = Objects::default();
        objects.create(Kind::EndpointSlice, NS, slice("1")).unwrap();
        let stored = objects.replace(Kind::EndpointSlice, NS, "a", slice("2")).unwrap();
        assert_eq!(stored["metadata"]["resourceVersion"], "2");
    }

    #[test]
    fn a_merge_patch_keeps_what_it_does_not_name() {
        let objects = Objects::default();
        let pod = json!({"metadata": {"name": "p", "labels": {"a": "1", "b": "2"}}});
        objects.create(Kind::Pod, NS, pod).unwrap();
        let patch = json!({"metadata": {"labels": {"b": null, "c": "3"}}});
        let stored = objects.merge(Kind::Pod, NS, "p", &patch).unwrap();
        assert_eq!(stored["metadata"]["labels"], json!({"a": "1", "c": "3"}));
        let of_another = json!({"metadata": {"uid": "x", "labels": {"c": "4"}}});
        assert_eq!(objects.merge(Kind::Pod, NS, "p", &of_another).unwrap_err().code, 409);
    }
}
