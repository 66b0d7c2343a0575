//! Who may do what: Roles and RoleBindings as rendered, tokens as given to pods. Nothing is allowed that no Role allows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::objects::{Kind, Refused};

/// Tokens, Roles and bindings of one namespace.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    /// Token of each service account.
    tokens: BTreeMap<String, String>,
    /// Role's name and its rules.
    roles: BTreeMap<String, Vec<Value>>,
    /// Service account and Role.
    bindings: Vec<(String, String)>,
}

impl Rights {
    /// Takes a Role or a RoleBinding.
    pub fn add(&mut self, object: &Value) {
        let name = text(&object["metadata"]["name"]).to_owned();
        match object["kind"].as_str() {
            Some("Role") => drop(self.roles.insert(name, list(&object["rules"]).to_vec())),
            Some("RoleBinding") => {
                let role = text(&object["roleRef"]["name"]).to_owned();
                let subjects = list(&object["subjects"]).iter();
                self.bindings.extend(subjects.map(|subject| (text(&subject["name"]).to_owned(), role.clone())));
            }
            _ => {}
        }
    }

    /// Gives a service account a token.
    pub fn token(&mut self, account: &str) -> String {
        let token = format!("token-of-{account}");
        self.tokens.insert(token.clone(), account.to_owned());
        token
    }

    /// Whether the bearer of a token may do it.
    ///
    /// # Errors
    /// 401 or 403, as Kubernetes says it.
    pub fn check(&self, token: Option<&str>, verb: &str, kind: Kind, name: Option<&str>) -> Result<(), Refused> {
        let account = token.and_then(|token| self.tokens.get(token));
        let Some(account) = account else { return Err(Refused::new(401, "Unauthorized", "Unauthorized")) };
        let roles = self.bindings.iter().filter(|(who, _)| who == account).filter_map(|(_, role)| self.roles.get(role));
        let allowed = |rule: &Value| {
            let has = |field: &str, value: &str| list(&rule[field]).iter().any(|item| item == value);
            let names = list(&rule["resourceNames"]);
            has("apiGroups", kind.group())
                && has("resources", &kind.resource())
                && has("verbs", verb)
                && (names.is_empty() || name.is_some_and(|name| names.iter().any(|item| item == name)))
        };
        if roles.flatten().any(allowed) {
            return Ok(());
        }
        let resource = kind.resource();
        let message = format!("{resource} \"{}\" is forbidden: {account} cannot {verb} it", name.unwrap_or_default());
        Err(Refused::new(403, "Forbidden", message))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_a_role_of_the_account_allows() {
        let mut rights = Rights::default();
        rights.add(&json!({"kind": "Role", "metadata": {"name": "r"}, "rules": [
            {"apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"], "verbs": ["get"]}, {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]}));
        rights.add(&json!({"kind": "RoleBinding", "metadata": {"name": "r"}, "roleRef": {"name": "r"}, "subjects": [{"name": "a"}]}));
        let (token, other) = (rights.token("a"), rights.token("b"));
        let code = |token: Option<&str>, verb, kind, name| rights.check(token, verb, kind, name).map_err(|e| e.code);
        assert_eq!(code(Some(&token), "get", Kind::Pod, Some("p")), Ok(()));
        assert_eq!(code(Some(&token), "create", Kind::Event, None), Ok(()));
        assert_eq!(code(Some(&token), "get", Kind::Pod, Some("q")), Err(403));
        assert_eq!(code(Some(&token), "patch", Kind::Pod, Some("p")), Err(403));
        assert_eq!(code(Some(&other), "get", Kind::Pod, Some("p")), Err(403));
        assert_eq!(code(None, "get", Kind::Pod, Some("p")), Err(401));
    }
}
