//! Where the controllers are, and asking them: the first that answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use super::args::Arguments;
use crate::http::Client;
use crate::http::client::{Call, ClientError, refusal};

/// For an answer to a read.
const READ: Duration = Duration::from_secs(5);
/// Asked if nothing else is said.
const DEFAULT: &str = "127.0.0.1:8091";

/// `~/.config/baton/ctl.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    endpoints: Vec<String>,
    #[serde(default)]
    token_file: Option<PathBuf>,
}

/// The controllers.
pub(crate) struct Controllers {
    endpoints: Vec<String>,
    client: Client,
    has_token: bool,
}

impl Controllers {
    /// As the arguments, the environment or the file say.
    pub(crate) fn find(arguments: &Arguments) -> Result<Self, Failure> {
        let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".config")));
        let file = match home.map(|h| h.join("baton/ctl.toml")) {
            Some(path) if path.exists() => read_file(&path)?,
            _ => File::default(),
        };
        let mut endpoints: Vec<String> =
            if arguments.endpoints.is_empty() { file.endpoints } else { arguments.endpoints.clone() };
        endpoints = endpoints
            .iter()
            .map(|e| e.trim().trim_start_matches("http://").trim_end_matches('/').to_owned())
            .filter(|e| !e.is_empty())
            .collect();
        if endpoints.is_empty() {
            endpoints.push(DEFAULT.to_owned());
        }
        let token = match arguments.token_file.as_ref().or(file.token_file.as_ref()) {
            Some(path) => Some(read_token(path)?),
            None => None,
        };
        Ok(Self { endpoints, client: Client::new(token.as_ref()), has_token: token.is_some() })
    }

    /// GET of the first controller that answers.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let mut failures = Vec::new();
        for at in &self.endpoints {
            match self.client.get::<Value>(at, path, READ).await {
                Ok(answer) => return Ok(answer),
                Err(ClientError::Status(r)) if r.status < 500 => return Err(self.refused(&r.error, &r.hint, r.status)),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(Failure::Unreachable(format!("no controller answers: {}", failures.join("; "))))
    }

    /// POST to the first controller that answers; gives the status and the answer of a success.
    pub(crate) async fn post(&self, path: &str, body: &Value, limit: Duration) -> Result<(StatusCode, Value), Failure> {
        let bytes = Bytes::from(body.to_string());
        let mut failures = Vec::new();
        for at in &self.endpoints {
            let call = Call { at, method: Method::POST, path, body: bytes.clone(), repeatable: false };
            match self.client.call(call, limit).await {
                Ok(answer) if answer.status.is_success() => {
                    return Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)));
                }
                Ok(answer) => {
                    let ClientError::Status(r) = refusal(at, path, &answer) else { continue };
                    if r.status != 503 {
                        return Err(self.refused(&r.error, &r.hint, r.status));
                    }
                    failures.push(with_hint(&r.error, &r.hint));
                }
                Err(error) if error.not_done() => failures.push(error.to_string()),
                // It may be under way: asking another one would ask twice.
                Err(error @ ClientError::Timeout { .. }) => return Err(Failure::Unfinished(error.to_string())),
                Err(error) => return Err(Failure::Unreachable(error.to_string())),
            }
        }
        Err(Failure::Unreachable(format!("no controller can do it: {}", failures.join("; "))))
    }

    /// A stream of the first controller that gives one.
    pub(crate) async fn watch(&self) -> Result<crate::http::Lines, Failure> {
        let mut failures = Vec::new();
        for at in &self.endpoints {
            match self.client.lines(at, "/v1/watch", READ).await {
                Ok(lines) => return Ok(lines),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(Failure::Unreachable(format!("no controller answers: {}", failures.join("; "))))
    }

    fn refused(&self, error: &str, hint: &str, status: u16) -> Failure {
        let text = with_hint(error, hint);
        match status {
            401 if !self.has_token => Failure::Usage(format!(
                "{error}: name the file that holds the token by --token-file or BATON_TOKEN_FILE"
            )),
            400 | 401 => Failure::Usage(text),
            _ => Failure::Refused(text),
        }
    }
}

fn with_hint(error: &str, hint: &str) -> String {
    if hint.is_empty() { error.to_owned() } else { format!("{error}\n  {hint}") }
}

fn read_file(path: &Path) -> Result<File, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{} can't be read: {e}", path.display())))?;
    toml::from_str(&text).map_err(|e: toml::de::Error| Failure::Usage(format!("{}: {}", path.display(), e.message())))
}

fn read_token(path: &Path) -> Result<SecretString, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(e) => Err(Failure::Usage(format!("the token's file {} can't be read: {e}", path.display()))),
    }
}
