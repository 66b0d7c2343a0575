//! The bearer token (RFC 6750).

use std::hint::black_box;

use axum::http::{HeaderMap, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};

use super::error::ApiError;

/// Whether the request's header carries `token`; without a token configured nothing is allowed.
///
/// # Errors
/// 401, with what to send, or where to configure it.
pub fn require_token(token: Option<&SecretString>, headers: &HeaderMap) -> Result<(), ApiError> {
    let refused = |error: &str, hint: &str| Err(ApiError::new(StatusCode::UNAUTHORIZED, error, hint));
    let Some(token) = token else {
        return refused(
            "this request needs a bearer token, and none is configured here",
            "set token_file in the configuration of this process",
        );
    };
    let hint = "send \"Authorization: Bearer TOKEN\" with the token from the configured token_file";
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
    use super::*;

    #[test]
    fn only_the_whole_token_in_the_right_form_lets_in() {
        let token = SecretString::from("secret".to_owned());
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            headers
        };
        require_token(Some(&token), &with("Bearer secret")).unwrap();
        require_token(Some(&token), &with("bearer  secret ")).unwrap();
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer Secret", "Bearer ", "Basic secret", "secret"] {
            let error = require_token(Some(&token), &with(wrong)).unwrap_err();
            assert_eq!(error.status, StatusCode::UNAUTHORIZED, "{wrong}");
            assert!(!error.error().contains("secre"), "{wrong}");
        }
        require_token(Some(&token), &HeaderMap::new()).unwrap_err();
        require_token(None, &with("Bearer ")).unwrap_err();
    }
}
