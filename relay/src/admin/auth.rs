//! Who may ask what: the bearer token (RFC 6750) for POST, and for GET too where reads are protected.

use std::hint::black_box;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};

use super::error::ApiError;
use super::routes::App;

/// Paths that never need a token: load balancers and supervisors have none.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// Before every request: reads, where they are protected.
pub(super) async fn protect_reads(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.options.protect_reads && !OPEN.contains(&request.uri().path()) {
        if let Err(error) = check(app.options.token.as_ref(), request.headers()) {
            return error.into_response();
        }
    }
    next.run(request).await
}

/// Before what changes something.
pub(super) async fn require_token(State(app): State<App>, request: Request, next: Next) -> Response {
    if let Err(error) = check(app.options.token.as_ref(), request.headers()) {
        return error.into_response();
    }
    next.run(request).await
}

fn check(token: Option<&SecretString>, headers: &HeaderMap) -> Result<(), ApiError> {
    let refused = |error: &str, hint: &str| Err(ApiError::new(StatusCode::UNAUTHORIZED, error, hint));
    let Some(token) = token else {
        return refused(
            "this request needs a bearer token, and the relay has none configured",
            "set listen.token_file in the relay's configuration",
        );
    };
    let hint = "send \"Authorization: Bearer TOKEN\" with the token from the relay's listen.token_file";
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return refused("this request needs a bearer token", hint);
    };
    let given = value.to_str().ok().and_then(|v| v.split_once(' ')).filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
    match given {
        Some((_, given)) if equal(given.trim().as_bytes(), token.expose_secret().as_bytes()) => Ok(()),
        Some(_) => refused("the bearer token is wrong", hint),
        None => refused("the Authorization header is not of the form \"Bearer TOKEN\"", hint),
    }
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut different = u8::from(a.len() != b.len());
    for (x, y) in a.iter().zip(b) {
        different = black_box(different | (x ^ y));
    }
    black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use super::equal;

    #[test]
    fn tokens_are_equal_only_as_a_whole() {
        assert!(equal(b"secret", b"secret") && equal(b"", b""));
        for other in [&b"secre"[..], b"secrets", b"Secret", b"secres", b""] {
            assert!(!equal(b"secret", other) && !equal(other, b"secret"));
        }
    }
}
